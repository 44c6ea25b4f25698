"""What ``--dry-run`` prints: what a replay would send, and what not and why."""

from __future__ import annotations

from iot import terminal
from iot.devices.report import table
from iot.sensors.recording import AnyRecording, LongRecording

# How many readings are shown.
SHOWN = 20


def dry_run(name: str, recording: AnyRecording) -> str:
    """Return the text about a recording.

    Args:
        name: of its file.
    """
    report = recording.report
    first = recording.first if isinstance(recording, LongRecording) else recording.messages
    sensors = len(set(recording.sensors))
    lines = [
        f"{name} was recognised as:",
        *report.recognised(),
        "",
        f"first readings, in order of time ({min(SHOWN, len(first))} of {report.readings:,}):",
        *table(first[:SHOWN]),
        "",
        f"would send {_counted(report.readings, 'reading')} of {_counted(sensors, 'sensor')}, {report.span()}",
    ]
    if report.refused:
        lines += ["", f"would not send {report.refused:,}:", *(f"  {line}" for line in report.refusals())]
    lines += ["", "nothing was sent (--dry-run)"]
    return "\n".join(map(terminal.printable, lines))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
