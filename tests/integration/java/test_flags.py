"""The threads of Java's best compiler give way, all others keep their place."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyspark
import pytest

from iot.java import flags
from iot.java.runtime import java_executable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")


def niceness(thread: int | None) -> int:
    assert thread
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_only_the_compilers_threads_give_way():
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


def test_a_process_that_is_gone_is_no_trouble():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert flags.give_way(process.pid) == 0


def test_java_knows_the_flags_and_names_its_threads_so(eventually):
    # Any program will do that waits: this one ends when its standard input does.
    jar = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))
    java = [str(java_executable()), *flags.FLAGS, "-cp", str(jar), "py4j.GatewayServer", "--die-on-broken-pipe", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "JDK_JAVA_OPTIONS"}
    process = subprocess.Popen(java, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout
        assert process.stdin
        assert int(process.stdout.readline()) > 0
        eventually(lambda: flags.give_way(process.pid) > 0)
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()
