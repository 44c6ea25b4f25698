"""The parts that the scripts share.

``settings``, ``console`` and ``lifecycle``: addresses and flags, what a terminal shows, how a script stops.
``readings`` and ``alerts``: the schema and its validator, the rules.
``simulator``, ``replay``, ``injection``, ``pacing``, ``sender``, ``marks``, ``progress``: readings sent.
``tally``: what a consumer counts.
``kafka``, ``offsets`` and ``alert_feed``: how to reach Kafka, and readers without a group.
``broker`` with ``java`` and ``class_data``: the embedded Kafka, the Java runtime and the jars, and faster starts.
``topics`` and ``tables``: the topics of any Kafka, and what it holds.
``spark``, ``streams``, ``digest``, ``spark_alerts``, ``rejected``, ``checkpoints``: what Spark does.
``processing`` with ``jobs``, ``agreement``, ``topic_guard``: Spark into the results database, kept alive.
``store`` with ``schema``, ``database``, ``merge``, ``fetch``, ``history``, ``retention``, ``state``, ``metrics``:
the database and what it tells.
``web`` with ``server``, ``push``, ``reader``, ``answers``, ``parameters``, ``access``, ``openapi``, ``prometheus``:
the page and the API.
"""
