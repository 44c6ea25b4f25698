"""Names of results databases: which of them mean the same place, and how a command is given one.

A name is the path of a file of SQLite, or the URL of PostgreSQL, with ``***`` where its password was.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, make_url, text
from sqlalchemy.dialects.postgresql import psycopg

from iot.results.advisory_lock import SCHEMA_NAME

PORT = 5432
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What a URL may have for psycopg, and libpq does not know.
OF_PSYCOPG = ("autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory")
# What a command does not show. psql and the application ask for it, or take it from PGPASSWORD.
SECRETS = ("password", "sslpassword")

PLACE_ID = f"""
SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/'
    || coalesce({SCHEMA_NAME}, '')
FROM pg_control_system()
"""


def place_id(connection: Connection) -> str:
    """Return the id of a schema of a PostgreSQL server: the same for every address, user and driver.

    Raises:
        sqlalchemy.exc.ProgrammingError: the server does not tell this user.
    """
    return str(connection.scalar(text(PLACE_ID)))


def paste(name: str) -> str:
    """Return the URL that ``--database-url`` and ``psql`` take. It has no password."""
    if name.startswith("/"):
        return f"sqlite:///{name}"
    args = _arguments(name)
    user, database = (quote(str(args.pop(key, "")), safe="") for key in ("user", "dbname"))
    host, port = str(args.get("host", "")), str(args.get("port", ""))
    server = ""
    # The folder of a socket, and several hosts, have their place behind the question mark.
    if host and "/" not in host and "," not in host:
        server = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        args = {key: value for key, value in args.items() if key not in ("host", "port")}
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in args.items())
    return f"postgresql://{user and user + '@'}{server}/{database}" + (f"?{query}" if query else "")


def choose(name: str) -> str:
    """The flag that chooses the database of this name, for messages."""
    hint = " (with its password, or set PGPASSWORD)" if ":***@" in name else ""
    return f"--database-url {shlex.quote(paste(name))}{hint}"


def same_address(one: str, other: str) -> bool:
    """Whether two names lead to the same place, as far as that can be seen without the server."""
    files = [Path(name) for name in (one, other) if name.startswith("/")]
    if len(files) == 2:
        if all(file.exists() for file in files):
            return files[0].samefile(files[1])
        return files[0].resolve() == files[1].resolve()
    return not files and _same_server(one, other)


def file_of(url: str) -> str:
    """Return the file of an SQLite database; empty for another one."""
    found = re.match(r"sqlite(?:\+\w+)?:///(.+)", url)
    return found[1] if found else ""


def _same_server(one: str, other: str) -> bool:
    """Whether two URLs have a server in common, and the same database and options.

    Servers in one URL stand in for each other.
    """
    (servers, *rest), (others, *other_rest) = _address(one), _address(other)
    return not servers.isdisjoint(others) and rest == other_rest


def _address(name: str) -> tuple[set[tuple[str, str]], str, str]:
    """Hosts with their ports, database and options of a server, each as its most usual spelling."""
    args = _arguments(name)
    hosts = [_host(host) for host in str(args.get("host", "")).split(",")]
    ports = str(args.get("port", "")).split(",")
    # One port holds for all hosts.
    ports = ports * len(hosts) if len(ports) == 1 else ports
    servers = {(host, port or str(PORT)) for host, port in zip(hosts, ports, strict=False)}
    database = str(args.get("dbname") or args.get("user", ""))
    return servers, database, "".join(str(args.get("options", "")).split())


def _host(given: str) -> str:
    if given.lower() in LOOPBACK:
        return LOOPBACK[0]
    return str(Path(given).resolve()) if given.startswith("/") else given.lower()


def _arguments(name: str) -> dict[str, Any]:
    """The arguments of libpq in a URL, but for passwords."""
    url = make_url(name).set(drivername="postgresql+psycopg")
    _, args = psycopg.dialect().create_connect_args(url)  # type: ignore[no-untyped-call]
    return {key: value for key, value in args.items() if value not in ("", None) and key not in OF_PSYCOPG + SECRETS}
