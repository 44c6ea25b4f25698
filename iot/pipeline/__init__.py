"""Spark's results into the results database, kept running: the only place where the two meet.

- ``pipeline``: the jobs, and their supervision.
- ``job``: one of them, started again when it fails.
- ``alarms``: reads, judges and publishes alarms.
- ``measurements``: durations, delays and sizes, for Prometheus.
- ``heartbeat``: reports every second how the jobs are.
- ``resume``: continues an earlier run, or begins a new one.
- ``demo``: the broker and the sensors of ``--demo``.
- ``demo_devices``: the gateway and the MQTT broker of ``--devices``.
- ``training``: runs broker and queries once, so that later starts are faster.
"""
