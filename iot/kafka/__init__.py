"""The connection to Kafka, for all scripts. Its modules, in reading order:

- ``dial``: tries addresses without a client, each with a time limit.
- ``client_config``: the connection as configuration of kafka-python and of librdkafka.
- ``advertised``: whether brokers are reached where they say, and which address fails in an outage.
- ``connect``: whether a broker answers, and why not.
- ``topics``: creates missing topics, and looks up ids and settings.
- ``topic_guard``: detects that a topic was deleted and made again.
- ``offsets``: where a topic begins and ends.
- ``sender``: both clients behind one interface that counts every acknowledgement.
- ``alert_feed``: follows the alerts topic.
- ``alarm_publisher``: sends changes of alarms to their topic.
- ``consumer_group``, ``lag``: one member of a consumer group, and how far it is behind.
- ``rejected_topic``: reads rejected messages.
"""
