"""The code that the five scripts share. Its folders follow the data, from Kafka to the dashboard.

Modules in this folder know no other folder, except the command ``rejected``:
    settings, cli, terminal, processes: constants, shared flags, status lines, stop signals and child processes.
    readings, alerts, rules_file: the schema and its validator, the alert rules, the rules file.
    batches, statistics: what Spark reports about a batch, what the consumer counts.
    rejected: ``python -m iot.rejected``, the command for rejected messages.
``java``: the Java runtime and the jars of Kafka and Spark.
``kafka``: clients, topics and offsets of any Kafka.
``broker``: the embedded Kafka, ``python -m iot.broker``.
``sensors``: simulated and recorded readings, sent at a rate.
``spark``: windows and alerts over the readings.
``results``: the database of results.
``pipeline``: Spark's results into the database, and restarts. Only here do ``spark`` and ``results`` meet.
``web``: the dashboard and its API, ``python -m iot.web``.
``loadtest``: load tests of ``performance_test.py``.
"""
