"""The Java runtime, the jars, and flags for every JVM.

- ``runtime`` finds Java.
- ``jars`` fetches the jars of Kafka and of Spark's Kafka connector.
- ``class_archives`` and ``flags`` make JVMs start faster.

``python -m iot.java`` finds Java and fetches all jars.
"""
