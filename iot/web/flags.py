"""The flags of the web server, which iot_streaming_app.py has too and passes on."""

from __future__ import annotations

import argparse
import os

from iot import cli
from iot.results.store import DATABASE_URL

HOST = "127.0.0.1"
PORT = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--host``, ``--port``, ``--database-url``, ``--token`` and ``--insecure``."""
    group = parser.add_argument_group("results and the page")
    group.add_argument("--host", default=HOST, help="the address to listen on; 0.0.0.0 lets other machines connect")
    group.add_argument("--port", type=cli.port_number, default=PORT, help="the port to listen on")
    # Set on the parser, not on the flags: --help shows the default of a flag, and these may hold a secret.
    parser.set_defaults(
        token=os.environ.get("IOT_TOKEN") or None, database_url=os.environ.get("IOT_DATABASE_URL") or DATABASE_URL
    )
    group.add_argument(
        "--database-url",
        metavar="URL",
        default=argparse.SUPPRESS,
        help=f"where results are stored; put a URL with a password into IOT_DATABASE_URL (default: {DATABASE_URL})",
    )
    group.add_argument(
        "--token",
        default=argparse.SUPPRESS,
        help="the token that readers must present; better in IOT_TOKEN, because other users can see command lines",
    )
    group.add_argument("--insecure", action="store_true", help="let everyone who can reach --host in without a token")
