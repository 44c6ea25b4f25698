"""An nginx for the tests, in front of the dashboard: it runs as the current user, with all its files in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot.broker.broker import find_free_port
from iot.processes import end, spawn

START_S = 20.0
# Debian's own file has gzip on; proxy_buffering is on by default.
CONFIG = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    gzip on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {upstreams}
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


def require_nginx() -> str:
    """The path of nginx; skips the test where it is not installed, but fails in CI."""
    # Debian installs it outside the PATH of ordinary users.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        missing = "nginx is not installed; on Debian and Ubuntu: apt-get install nginx"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def running_nginx(folder: Path, locations: str, upstreams: str = "") -> Iterator[str]:
    """Run nginx with these ``location`` and ``upstream`` blocks; yields its URL."""
    nginx, port = require_nginx(), find_free_port()
    config, log = folder / "nginx.conf", folder / "nginx.log"
    # Its workers would otherwise be of a user who cannot write to the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(user=user, folder=folder, port=port, locations=locations, upstreams=upstreams))
    with log.open("wb") as output:
        command = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)]
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        # SIGTERM ends its workers too.
        end(process, 15)
