"""The Java runtime, the jars, and the flags of every JVM."""
