"""A text that nobody may see: an address with a token in it, or a password."""

from __future__ import annotations


class Secret:
    """Holds a text, and shows it only to ``reveal``. Printing, formatting and ``repr`` show stars."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not stored")
