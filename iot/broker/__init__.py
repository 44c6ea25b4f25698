"""The embedded Kafka, for the demo, the tests and everyone without a Kafka of their own.

Other folders use ``broker`` and ``cluster`` only. ``__main__`` is the command ``python -m iot.broker``. Modules in
reading order:

- ``broker``: one node, for most uses.
- ``cluster``: several nodes, which are started again when they die.
- ``embedded``: what these two have in common.
- ``node``: one process of Kafka, its ports and its configuration.
- ``data_folder``: its data, configuration, logs and lock.
- ``tables``: topics and consumer groups of any Kafka as tables for the terminal.
"""
