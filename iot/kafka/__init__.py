"""How to reach Kafka: clients, topics, offsets, alerts as they arrive."""
