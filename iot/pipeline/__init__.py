"""Spark's results into the results database, kept running: the only place where the two meet.

- ``pipeline``: the jobs, and their supervision.
- ``job``: one of them, started again when it fails.
- ``heartbeat``: reports every second how the jobs are.
- ``resume``: continues an earlier run, or begins a new one.
- ``demo``: the broker and the sensors of ``--demo``.
- ``training``: runs broker and queries once, so that later starts are faster.
"""
