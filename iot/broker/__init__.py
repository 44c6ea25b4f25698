"""The embedded Kafka, for the demo, the tests and everyone without a Kafka of their own.

Other folders use ``broker`` only. ``__main__`` is the command ``python -m iot.broker``. Modules in reading order:

- ``broker``: starts and stops Kafka.
- ``data_folder``: its data, configuration, logs and lock.
- ``tables``: topics and consumer groups of any Kafka as tables for the terminal.
"""
