"""The embedded Kafka broker, and tables of what any Kafka holds."""
