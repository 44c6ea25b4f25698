"""A PostgreSQL server, or several that stand in for each other: sessions, and their end where none answers."""

from __future__ import annotations

import os
import re
import socket
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url, select
from sqlalchemy.pool import NullPool

from iot.settings import UserError, reason

# How long to wait for a new session before the server is given up.
ANSWER_S = 2.0
# How long a host may take to accept a connection; another host of the URL comes next.
CONNECT_S = 5
# Client and server notice within about 10 s that the other one's machine has gone. A batch does not wait longer for an
# answer, and the server gives up the session with its locks.
KEEPALIVES = {"keepalives_idle": 4, "keepalives_interval": 2, "keepalives_count": 3}
TCP_USER_TIMEOUT_MS = 10_000
SERVER_OPTIONS = [f"-c tcp_{name}={value}" for name, value in KEEPALIVES.items()]
SERVER_OPTIONS += [f"-c tcp_user_timeout={TCP_USER_TIMEOUT_MS}"]
CONNECT_ARGS = KEEPALIVES | {
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
    "options": " ".join(SERVER_OPTIONS),
}
# The hosts of a URL as libpq takes them, HOST:PORT,HOST:PORT, and what is before and after them.
_SEVERAL_HOSTS = re.compile(r"(postgres\w*(?:\+\w+)?://(?:[^@]*@)?)([^/?@]+,[^/?@]+)((?:/[^?]*)?)(?:\?(.*))?")
_HOST = re.compile(r"(?:\[([^]]+)]|([^:]*))(?::(\d*))?")


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
            args: of libpq, on top of ``CONNECT_ARGS``. All ``options`` are added up, with those of the URL.
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
        engine = self.engine({}, poolclass=NullPool)

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


def parse_url(url: str) -> URL:
    """Parse the URL of a database.

    It may have several hosts, as libpq writes them: ``postgresql://user@host:5432,other:5432/database``. Of several
    hosts the one that takes writes is used, if the URL does not say otherwise.

    Raises:
        ValueError, sqlalchemy.exc.ArgumentError: it is malformed.
    """
    if found := _SEVERAL_HOSTS.fullmatch(url):
        before, hosts, path, query = found.groups()
        parsed = make_url(f"{before}{path or '/'}" + (f"?{query}" if query else ""))
        parsed = parsed.update_query_dict(_hosts(hosts.split(",")))
    else:
        parsed = make_url(url)
    if _has_several_hosts(parsed):
        parsed = parsed.set(query={"target_session_attrs": "read-write", **parsed.query})
    return parsed


def _hosts(given: list[str]) -> dict[str, str]:
    """The parameters of libpq for hosts with or without a port. An empty port is the default one."""
    found = [_HOST.fullmatch(host) for host in given]
    if not all(found):
        raise ValueError(f"not hosts: {','.join(given)}")
    parts = [one.groups() for one in found if one]
    ports = [port or "" for _, _, port in parts]
    hosts = {"host": ",".join(address or name for address, name, _ in parts)}
    return hosts | ({"port": ",".join(ports)} if any(ports) else {})


def _has_several_hosts(url: URL) -> bool:
    hosts = url.query.get("host", "")
    return url.get_backend_name().startswith("postgres") and (not isinstance(hosts, str) or "," in hosts)


def _shut_down(file: int) -> None:
    """Shut a socket down. Whatever waits for data from it gets an error; it stays open for its owner to close."""
    with socket.socket(fileno=os.dup(file)) as other:
        other.shutdown(socket.SHUT_RDWR)


def _with_options(url: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Add up all options, such as ``-c search_path=NAME`` of the URL, which arguments would replace."""
    given = url.query.get("options", "")
    of_url = given if isinstance(given, str) else " ".join(given)
    options = [of_url, CONNECT_ARGS["options"], args.get("options", "")]
    return CONNECT_ARGS | args | {"options": " ".join(filter(None, options))}
