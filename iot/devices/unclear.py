"""What nobody can tell about a file, as questions, and as the lines of a map that would answer them."""

from __future__ import annotations

# Maximum number of characters of a question or a line of a map.
MAX_TEXT = 600


def one_line(text: str) -> str:
    """Return a text for a message: names in files may have line breaks, and any length."""
    text = " ".join(text.splitlines())
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


class Unclear(Exception):  # noqa: N818  # questions, not an error
    """Names and samples leave questions open.

    Attributes:
        texts: each question.
        lines: lines of a map that would answer them, by table.
        has_no_type: nothing names a known type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.lines: dict[str, list[str]] = {}
        self.has_no_type = False

    def ask(self, text: str, table: str = "", *lines: str) -> None:
        """Add a question, and what to write in a table of the map."""
        self.texts.append(one_line(text))
        if table:
            self.lines.setdefault(table, []).extend(map(one_line, lines))

    def __str__(self) -> str:
        return "; ".join(self.texts)

    def map_text(self) -> str:
        """Return a map to fill in."""
        order = ("columns", "constants", "units", "time", "csv")
        return "\n\n".join("\n".join([f"[{table}]", *self.lines[table]]) for table in order if table in self.lines)
