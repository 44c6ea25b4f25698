"""A PostgreSQL server: sessions with it, and their end where it does not answer."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Engine, create_engine, event, exc, select
from sqlalchemy.pool import NullPool

from iot.settings import UserError, reason

# How long to wait for a new session before the server is given up.
ANSWER_S = 2.0


class Server:
    """Makes sessions with a server; safe to use from several threads.

    A server that is suspended, or whose machine is, keeps its connections and leaves every statement without an
    answer. TCP notices nothing of that.
    """

    def __init__(self, url: URL) -> None:
        self.url = url.set(drivername="postgresql+psycopg")
        self.is_given_up = False
        """Whether the server did not answer and so gets no more sessions."""
        self._sessions: WeakSet[Any] = WeakSet()

    def engine(self, args: dict[str, Any], **options: Any) -> Engine:
        """Return an engine whose sessions end when the server is given up.

        Args:
            args: of libpq. Those of the URL's ``options`` are added.
            options: of ``create_engine``.

        Raises:
            UserError: the driver is not installed.
        """
        try:
            engine = create_engine(self.url, connect_args=_with_options(self.url, args), **options)
        except ImportError as error:
            fix = "pip install 'psycopg[binary]'"
            raise UserError(f"the PostgreSQL driver is not installed ({reason(error)}): {fix}") from error

        @event.listens_for(engine, "do_connect")
        def refuse(dialect: Any, *_: object) -> None:
            if self.is_given_up:
                raise dialect.loaded_dbapi.OperationalError("given up")

        @event.listens_for(engine, "connect")
        def note(session: Any, _: object) -> None:
            self._sessions.add(session)

        return engine

    def give_up_without_answer(self) -> None:
        """End all sessions, unless the server answers a new one within ``ANSWER_S``."""
        answered = threading.Event()
        engine = self.engine({"connect_timeout": 5}, poolclass=NullPool)

        def ask() -> None:
            with suppress(exc.SQLAlchemyError), engine.connect() as session:
                session.scalar(select(1))
                answered.set()

        threading.Thread(target=ask, name="ask-database", daemon=True).start()
        if answered.wait(ANSWER_S):
            return
        self.is_given_up = True
        assert engine.dialect.loaded_dbapi
        for session in list(self._sessions):
            # A session that has ended has no socket.
            with suppress(OSError, engine.dialect.loaded_dbapi.Error):
                _shut_down(session.fileno())


def _shut_down(file: int) -> None:
    """Shut a socket down. Whatever waits for data from it gets an error; it stays open for its owner to close."""
    with socket.socket(fileno=os.dup(file)) as other:
        other.shutdown(socket.SHUT_RDWR)


def _with_options(url: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Add the options of the URL, such as ``-c search_path=NAME``, which arguments would replace."""
    given = url.query.get("options", "")
    of_url = given if isinstance(given, str) else " ".join(given)
    return args | {"options": f"{of_url} {args.get('options', '')}".strip()}
