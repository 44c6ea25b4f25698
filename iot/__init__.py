"""The parts that the scripts share.

``settings`` holds addresses, topics, windows and common flags; ``readings`` the schema of a reading and its
validator; ``alerts`` the rules; ``simulator`` and ``replay`` where readings come from, and ``injection`` what is wrong
with some; ``pacing`` when they are due; ``kafka`` how to reach Kafka, ``sender`` both clients behind one seam, and
``progress`` how sending goes; ``tally`` what a consumer has seen; ``broker`` the embedded Kafka; ``java`` the Java
runtime and the jars; ``console`` and ``lifecycle`` what a script shows and how it stops.
"""
