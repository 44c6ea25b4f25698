"""Turn what devices send and files hold into readings. Modules in reading order:

- ``results``: what becomes of a row or payload: readings, and what is refused.
- ``quantities``: types, units, and numbers as people write them.
- ``times``: timestamps.
- ``names``: what the name of a column or field says.
- ``field_map``: the map, which says what cannot be recognised.
- ``plan``: which column or field is what.
- ``points``: the fields of one device at one time, and the readings in them.
- ``json_forms``: the table of the forms of JSON. A new kind of device begins here.
- ``json_stream``: JSON in lines, arrays and objects.
- ``influx``: line protocol and annotated CSV.
- ``text``: encodings and lines.
- ``tables``: CSV.
- ``formats``: the table of the formats of files; ``open_content`` for files, ``PayloadParser`` for HTTP and MQTT.
- ``own_schema``: many readings of this project's own schema at once, fast.
- ``report``: what was found in a file, for people.

Everything here is a function of its input. Only ``recording``, the producer and the gateway use ``formats``,
``field_map``, ``report``, ``results`` and ``own_schema``.
"""
