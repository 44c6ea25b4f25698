"""Java accepts the flags, and names its compiler's threads as expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from iot import environment
from iot.java import flags
from iot.java.runtime import java_executable


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_java_accepts_the_flags_and_its_compilers_threads_are_found(eventually):
    # Any program that waits will do: this one ends when its standard input does.
    jar = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))
    java = [str(java_executable()), *flags.FLAGS, "-cp", str(jar), "py4j.GatewayServer", "--die-on-broken-pipe", "0"]
    process = subprocess.Popen(
        java, env=os.environ | {"LC_ALL": environment.UTF8_LOCALE}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
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
