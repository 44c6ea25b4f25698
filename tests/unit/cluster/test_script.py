"""The end of a script that ``python -m iot.cluster`` runs."""

from __future__ import annotations

import pytest

from iot.cluster import __main__ as cluster
from iot.cluster.__main__ import Script

READY = "import signal, time; signal.signal(signal.SIGINT, {handler}); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def lines(eventually):
    """Start a script with a handler of SIGINT; yields the script and what it printed."""
    scripts = []

    def start(handler):
        printed: list[str] = []
        scripts.append(Script("the application", ["-c", READY.format(handler=handler)], printed.append))
        eventually(lambda: printed == ["ready"], 10)
        return scripts[-1], printed

    yield start
    for script in scripts:
        script.stop()


def test_the_last_line_of_a_script_is_printed(lines, capsys):
    script, printed = lines("lambda *_: (print('stopped: 7 readings'), exit(0))")
    script.stop()
    assert printed == ["ready", "stopped: 7 readings"]
    assert capsys.readouterr().out == ""


def test_a_script_that_does_not_stop_is_killed_and_that_is_said(lines, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "SCRIPT_STOP_S", 1.0)
    script, _ = lines("signal.SIG_IGN")
    script.stop()
    assert capsys.readouterr().out == "the application did not stop within 1 s, and was killed\n"
