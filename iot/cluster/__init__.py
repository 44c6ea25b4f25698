"""A small cluster on one machine, to try and to test what runs on several. Modules in reading order:

- ``spark``: a standalone Spark: a master and workers.
- ``postgres``: a PostgreSQL server from the system's packages.
"""
