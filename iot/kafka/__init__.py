"""The connection to Kafka, for all scripts. Its modules, in reading order:

- ``client_config``: the connection as configuration of kafka-python and of librdkafka.
- ``connect``: whether a broker answers, and why not.
- ``topics``: creates missing topics, and looks up ids and settings.
- ``topic_guard``: detects that a topic was deleted and made again.
- ``offsets``: where a topic begins and ends.
- ``sender``: both clients behind one interface that counts every acknowledgement.
- ``alert_feed``: follows the alerts topic.
- ``consumer_group``, ``lag``: one member of a consumer group, and how far it is behind.
- ``rejected_topic``: reads rejected messages.
"""
