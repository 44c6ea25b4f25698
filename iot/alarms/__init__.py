"""From alerts to alarms: one alarm per sensor, rule and side, from the beginning of a problem to its end.

- ``model``: the alarm, acknowledgements and silences.
- ``machine``: the state machine: which readings begin, change and end an alarm.
- ``silent``: sensors that send nothing any more.
- ``clocks``: brokers of Kafka whose clock is wrong.
- ``silences``: which alarms a silence matches, and how one is created, changed and expired.
- ``notify_file``: the file of receivers.
- ``notifier``: sends notifications, one thread for each receiver. ``python -m iot.alarms test`` tries the receivers.
"""
