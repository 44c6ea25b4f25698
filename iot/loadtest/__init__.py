"""The load test behind ``performance_test.py``, in reading order.

``session`` runs the tests that ``menu`` and ``flags`` ask for; ``plan`` describes a test.
``trial`` starts worker processes, watches them with ``usage`` and returns a result. It exchanges the messages of
``protocol`` with each ``worker``, whose threads send their readings from a ``lane`` each and measure their ``latency``.
``results`` are printed by ``details``, compared by ``earlier`` with those of an earlier run, and checked by
``thresholds``. ``report`` makes a page of them; ``outputs`` checks and writes the files.
``versus`` compares with Kafka's own tool (``kafka_tool``) and the course's method (``course``).

Three tests go through a running dashboard (``dashboard_client``), or through one of their own (``demo``).
``process_cpu`` measures the processes behind it.
``end_to_end`` follows the readings of a ``load`` (``follow``).
``max_rate`` looks for the highest rate. ``search`` chooses the rates, and ``stepper`` tries each: it sends ``bulk``
load, follows the few readings of a ``probe``, and asks Spark how long batches take (``spark_batches``). ``steps``
judges the figures, and ``growth`` whether lag grows.
``backlog`` stops the application and measures how it catches up; ``exactness`` checks the alerts.
"""
