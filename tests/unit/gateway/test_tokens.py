"""The file of tokens."""

from __future__ import annotations

import pytest

from iot.gateway.tokens import load_tokens
from iot.settings import UserError


@pytest.mark.parametrize("heading", ["", "[tokens]\n"])
def test_a_token_stands_for_its_device(tmp_path, heading):
    path = tmp_path / "tokens.toml"
    path.write_text(f'{heading}A1b2 = "greenhouse"\n"with space ü" = "Küche"\n')
    tokens = load_tokens(path)
    assert tokens.device("A1b2") == "greenhouse"
    assert tokens.device("with space ü") == "Küche"
    for other in ("", "a1b2", "A1b", "A1b23", "greenhouse", "\ud800"):
        assert tokens.device(other) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "A1b2", 'SECRET = ""', "SECRET = 7", '"" = "device"', '[tokens]\nSECRET = "d"\n[more]\nx = "d"',
        '[tokens]\n', f'SECRET = "{"d" * 129}"', 'SECRET = ["d"]', "\x00",
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_and_no_token_is_shown(tmp_path, text):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tokens\.toml") as error:
        load_tokens(path)
    assert "SECRET" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.toml"):
        load_tokens(tmp_path / "missing.toml")
