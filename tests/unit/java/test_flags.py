"""C2's threads get a low priority; all others keep theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iot.java import flags

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")


def niceness(thread: int | None) -> int:
    assert thread
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_only_the_compilers_threads_get_a_low_priority():
    named, end = threading.Event(), threading.Event()

    def compiler() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(flags.THREAD_NAME)
        named.set()
        end.wait()

    threads = [threading.Thread(target=target) for target in (compiler, end.wait)]
    for thread in threads:
        thread.start()
    try:
        assert named.wait(10)
        before = niceness(threads[1].native_id)
        assert flags.give_way(os.getpid()) == 1
        assert niceness(threads[0].native_id) == flags.NICENESS
        assert niceness(threads[1].native_id) == niceness(threading.get_native_id()) == before
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_process_that_has_ended_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert flags.give_way(process.pid) == 0
