"""The gateway: readings of devices come in by HTTP and MQTT, and go to Kafka. To read it in order:

- ``process``: the flags, the start and the stop.
- ``intake``: turns payloads into readings and refusals.
- ``sequences``: the last sequence of each sensor and run, by which repeats are recognised.
- ``writes``: one request or message on its way to Kafka.
- ``client``: the Kafka client and its settings.
- ``writer``: writes to Kafka, in order and bounded.
- ``journal``: the sequences and the owner of the topic, kept in a topic of their own.
- ``keeper``: takes the topic over, saves the sequences, and starts again after an outage.
- ``tokens``: which token stands for which device.
- ``answers``: what is answered to readings.
- ``app``, ``openapi``, ``metrics``: the HTTP API. ``arriving``: its server, which gives no thread to slow clients.
- ``direct``: the short way of usual requests, which needs no thread that waits.
- ``mqtt``, ``mqtt_url``: the MQTT client.

Repeats are recognised without Kafka's transactions, so every reader of the topic stays as it is. The topic itself is
the record of what was written: after a kill, the sequences are those that were saved last and those in the tail of the
topic since then. ``keeper`` says why this is exact.
"""
