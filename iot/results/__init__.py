"""The results database: Spark's batches are written to it, and the web server reads it.

Other folders use:
    store: ``Store`` reads and writes a results database; the only way in.
    model: what ``Store`` takes and returns.

Behind them, in reading order: ``tables`` (the schema), ``database`` (connections, transactions, upsert),
``ownership`` (one process writes), ``writes`` and ``queries`` (the statements), ``timeline`` (counts over the last day)
and ``retention`` (what is deleted).
"""
