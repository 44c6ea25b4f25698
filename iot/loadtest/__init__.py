"""The load test, behind ``performance_test.py``.

``plan``: what a test is. ``worker``: the process that sends and measures; ``latency``: its histogram.
``trial``: starts the workers and watches them with ``usage``. ``results``: what is told and kept of a test, and the
comparison with an earlier run; ``report`` makes a page of it.
``versus`` with ``kafka_tool``: beside Kafka's own tool and the course's method.
``end_to_end`` with ``load`` and ``follow``: through a running dashboard.
"""
