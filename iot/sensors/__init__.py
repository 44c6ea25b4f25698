"""Readings to send, simulated or recorded, and when to send them. Modules in reading order:

- ``fleet``: simulated sensors.
- ``recording``: readings from a file.
- ``dry_run``: what would be sent of a recording, as text.
- ``faults``: adds malformed messages and late readings to either.
- ``pacing``: when each reading is due, and how late it was sent.
- ``sending``: the threads that send readings when they are due.
- ``progress``: what the producer shows meanwhile.

The load test uses ``fleet`` and ``pacing``; only the producer uses the others.
"""
