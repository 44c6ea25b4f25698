"""Who owns what is written: processes, what they own, and the errors of one that does not own it, or not any more.

``iot.lease`` has the leases on files and folders, ``iot.results`` those on databases.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from iot.settings import UserError

# How often an owner renews its sign of life, or looks whether it still is the owner.
RENEW_S = 1.0
# How long to wait for the release. A network folder or a database server may not answer.
CLOSE_S = 2.0


class InUse(UserError):  # noqa: N818  # a state, not only an error
    """Another process owns it."""


class LeaseLost(UserError):  # noqa: N818  # a state, not only an error
    """Another process has taken over, so this one must not write any more."""


class LeaseUnknown(UserError):  # noqa: N818  # a temporary condition
    """Whether another process has taken over cannot be found out now. A retry may succeed."""


class Owner(msgspec.Struct, frozen=True):
    """A process; ``token`` distinguishes it from all others, on any machine and at any time."""

    script: str
    host: str
    boot: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.script} on {self.host} (process {self.pid})"

    def shares_machine_with(self, other: Owner) -> bool:
        return (self.host, self.boot) == (other.host, other.boot)


def this_process(script: str) -> Owner:
    """Return this process as an owner, with a new token."""
    return Owner(script, socket.gethostname(), _boot_id(), os.getpid(), uuid.uuid4().hex)


@cache
def _boot_id() -> str:
    """Return an id that differs between machines and between boots; empty where the system has none."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class Protected(NamedTuple):
    """What a lease protects, for messages."""

    what: str
    """For example ``the checkpoint folder /tmp``."""
    fix: str
    """What to do where another process owns it."""

    def in_use_by(self, owner: Owner | str) -> InUse:
        return InUse(f"{self.what} is in use by {owner}: {self.fix}")

    def taken_over_by(self, owner: Owner | str) -> LeaseLost:
        return LeaseLost(
            f"{self.what} was taken over by {owner} while this process was suspended or cut off: "
            "this one stops and writes nothing more"
        )


class Held(ABC):
    """Something that this process alone owns; ``with`` or ``close`` releases it. Several threads may use it.

    A thread renews it every ``renew_s``.
    """

    @property
    def renew_s(self) -> float:
        """How often to renew it."""
        return RENEW_S

    def __init__(self) -> None:
        self._lost: LeaseLost | None = None
        self._released = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release it; another process can have it at once.

        Where that needs an answer that does not come within ``CLOSE_S``, it is released once the answer comes or this
        process ends.
        """
        self._released.set()
        self._thread.join(CLOSE_S)

    @property
    def lost(self) -> LeaseLost | None:
        """Who has taken over; None as long as this process is known as the owner."""
        return self._lost

    def lose(self, error: LeaseLost) -> None:
        """Remember that another process has taken over."""
        self._lost = error

    def require(self) -> None:
        """Return if this process still is the owner.

        Raises:
            LeaseLost: another process has taken over.
            LeaseUnknown: that cannot be found out now.
        """
        if self._lost:
            raise LeaseLost(*self._lost.args)

    def _start_renewing(self, name: str) -> None:
        """Start the thread, once this process is the owner."""
        self._thread = threading.Thread(target=self._keep_renewing, name=name, daemon=True)
        self._thread.start()

    def _keep_renewing(self) -> None:
        while self._lost is None and not self._released.wait(self.renew_s):
            self._try_to_renew()
        self._released.wait()
        self._release()

    @abstractmethod
    def _try_to_renew(self) -> None:
        """Renew it, or find out that it is lost. It does not raise."""

    @abstractmethod
    def _release(self) -> None:
        """Let another process have it. It does not raise."""


class Leases:
    """Several leases that a process needs together."""

    def __init__(self, *leases: Held) -> None:
        self.leases = leases

    def require(self) -> None:
        """Return if this process still owns everything.

        Raises:
            LeaseLost: another process has taken over.
            LeaseUnknown: that cannot be found out now.
        """
        for lease in self.leases:
            lease.require()

    def require_not_lost(self) -> None:
        """As ``require``, but it looks at nothing and so cannot fail for another reason."""
        for lease in self.leases:
            if lease.lost:
                raise LeaseLost(*lease.lost.args)
