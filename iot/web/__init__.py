"""The dashboard: a page, a JSON API, a stream of events and Prometheus figures, read from the results database.

Scripts use ``flags`` (the flags of the server), ``access`` (who may use it), ``listening`` (its socket, opened before
anything else) and ``child`` (the server as a child process). ``python -m iot.web`` runs ``process``.
To read it in order: ``process`` starts everything; ``app`` has the endpoints, ``alarms`` those of alarms and silences,
and ``services`` what they share; ``writing`` checks requests that change something; ``snapshots`` reads the database,
once for all readers; ``figures`` computes what is shown, in the ``schemas`` that ``openapi`` describes; ``responses``,
``failures``, ``parameters`` and ``prometheus`` are the HTTP details; ``events`` pushes, and ``server`` hands
connections over to it.
"""
