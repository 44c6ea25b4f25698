"""The results database: Spark's batches are written to it, and the web server reads it.

Other folders use:
    store: ``Store`` reads and writes a results database; the only way in.
    model: what ``Store`` takes and returns.

Behind them, in reading order:
    tables: the schema.
    database, server, errors, damage: connections, and how they fail.
    ownership, file_lease, advisory_lock: one process writes.
    transactions: on tables that are ours.
    writes, upsert, queries, timeline: the statements; ``timeline`` has counts over the last day.
    active_alarms, alarm_writes: the alarms that batches change, in memory and in the database.
    alarms: alarms, silences and the notifier's log, for everyone else.
    upgrade: adds what an earlier version lacks.
    retention, aside: what is deleted, and what is kept of an earlier run.
    names: which names of databases mean the same, and how a command is given one.
"""
