"""Another machine, as far as the network goes: a network namespace at the end of a cable that can be cut."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMESPACE = "iot-there"
# The two ends of the cable between this machine and the other one, a network namespace.
HERE, THERE = "10.213.7.1", "10.213.7.2"
CABLE_HERE, CABLE_THERE = "iot-here", "iot-end"
# No network card has this address.
NOBODY = "02:00:00:00:00:01"


def ip(*args: str) -> str:
    """Run ``ip`` and return what it prints."""
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


class Cable:
    """The network between this machine and another one, which has an address, a loopback and nothing else."""

    def __init__(self) -> None:
        ip("link", "add", CABLE_HERE, "type", "veth", "peer", "name", CABLE_THERE, "netns", NAMESPACE)
        self._ends = [([], HERE, CABLE_HERE), (["-n", NAMESPACE], THERE, CABLE_THERE)]
        for place, address, name in self._ends:
            ip(*place, "addr", "add", f"{address}/24", "dev", name)
            ip(*place, "link", "set", name, "up")
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        here, there = (json.loads(ip(*place, "-j", "link", "show", name))[0] for place, _, name in self._ends)
        self._cards = {HERE: here["address"], THERE: there["address"]}

    def cut(self) -> None:
        """Lose all packets in both directions. Neither side gets an error."""
        self._send_to({HERE: NOBODY, THERE: NOBODY})

    def restore(self) -> None:
        self._send_to(self._cards)

    def _send_to(self, cards: dict[str, str]) -> None:
        others = [THERE, HERE]
        for (place, _, name), other in zip(self._ends, others, strict=True):
            ip(*place, "neigh", "replace", other, "lladdr", cards[other], "dev", name, "nud", "permanent")

    def listen_there(self) -> socket.socket:
        """A socket of this process that listens on the other machine, at a free port."""
        made: list[socket.socket] = []

        def listen() -> None:
            # A thread has a network of its own, and a socket keeps that of its beginning.
            with Path("/run/netns", NAMESPACE).open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server((THERE, 0)))

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        return made[0]


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Another machine, as far as the network goes; skips where there can be none, but fails in CI."""
    _remove()
    try:
        ip("netns", "add", NAMESPACE)
    except (OSError, subprocess.CalledProcessError) as error:
        why = f"cannot make a network namespace: {getattr(error, 'stderr', '') or error}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield Cable()
    finally:
        _remove()


def _remove() -> None:
    """Remove what is there. A socket of an earlier test may keep the namespace, and with it the cable."""
    for what in (["link", "delete", CABLE_HERE], ["netns", "delete", NAMESPACE]):
        subprocess.run(["ip", *what], check=False, capture_output=True)
