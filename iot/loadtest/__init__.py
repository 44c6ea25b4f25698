"""The load test behind ``performance_test.py``, in reading order.

``menu`` and ``flags`` ask what to run; ``plan`` describes a test.
``trial`` starts worker processes, watches them with ``usage`` and returns a result. It exchanges the messages of
``protocol`` with each ``worker``, whose threads send their readings from a ``lane`` each and measure their ``latency``.
``results`` prints and compares results; ``report`` makes a page of them; ``outputs`` checks and writes the files.
``versus`` compares with Kafka's own tool (``kafka_tool``) and the course's method (``course``).
``end_to_end`` follows the readings of a ``load`` through a running dashboard (``follow``).
"""
