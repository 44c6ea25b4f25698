"""The results database: Spark's batches are written to it, and the web server reads it.

Other folders use:
    store: ``Store`` reads and writes a results database; the only way in.
    model: what ``Store`` takes and returns.

Behind them, in reading order: ``tables`` (the schema), ``database``, ``server`` and ``errors`` (connections, and how
they fail), ``ownership``, ``file_lease`` and ``advisory_lock`` (one process writes), ``transactions`` (on tables that
are ours), ``writes``, ``upsert`` and ``queries`` (the statements), ``timeline`` (counts over the last day),
``retention`` (what is deleted), ``names`` (of databases) and ``aside`` (what is kept of an earlier run).
"""
