"""Rules files: what is read from them, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.alerts import DEFAULT_RULES, Rule
from iot.rules_file import load_rules
from iot.settings import UserError


def test_without_a_file_the_built_in_rules_apply():
    assert load_rules(None) is DEFAULT_RULES


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_rules_from_a_file_replace_the_built_in_ones(rules_file):
    rules_file.write_text(
        """# our rules
[[rule]]
sensor_type = "temperature"
unit = "celsius"
max = 25

[[rule]]
sensor_type = "größe"
unit = "m³"
min = -1.5
max = 2
"""
    )
    assert load_rules(rules_file) == {
        ("temperature", "celsius"): Rule("temperature", "celsius", None, 25.0),
        ("größe", "m³"): Rule("größe", "m³", -1.5, 2.0),
    }


def test_a_file_with_byte_order_mark_and_windows_line_ends(rules_file):
    rules_file.write_bytes(b'\xef\xbb\xbf[[rule]]\r\nsensor_type = "x"\r\nunit = "y"\r\nmin = 1\r\n')
    assert load_rules(rules_file) == {("x", "y"): Rule("x", "y", 1.0)}


X_IN_Y = '[[rule]]\nsensor_type = "x"\nunit = "y"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected one or more [[rule]] tables"),
        ("rule = 5\n", "line 1: expected one or more [[rule]] tables"),
        ("\n[rule]\nmin = 1\n", "line 2: expected one or more [[rule]] tables"),
        ("rule = []\n", "line 1: expected one or more [[rule]] tables"),
        (X_IN_Y + "min = \n", "line 4: not TOML: Invalid value"),
        (X_IN_Y + "min = 1\nmin = 2\n", "line 5: not TOML: Cannot overwrite a value"),
        (X_IN_Y + 'name = "', "line 4: not TOML: Unterminated string"),
        (X_IN_Y + "min = " + "9" * 5_000, "not TOML: "),
        ("a = " + "[" * 5_000, "not TOML: "),
        ("title = 'mine'\n" + X_IN_Y + "min = 1\n", "line 1: unknown key 'title'; expected only [[rule]] tables"),
        (X_IN_Y + "mininum = 1\n", "line 4: unknown key 'mininum'; expected sensor_type, unit, min or max"),
        (X_IN_Y, "line 1: neither min nor max; expected at least one of them"),
        ('\n\n[[rule]]\nunit = "y"\nmin = 1\n', "line 3: sensor_type is missing; expected a string"),
        ('[[rule]]\nsensor_type = "x"\nmin = 1\n', "line 1: unit is missing; expected a string"),
        (
            '[[rule]]\nunit = "y"\nsensor_type = ""\nmin = 1\n',
            "line 3: sensor_type is ''; expected a string of 1 to 128 characters",
        ),
        (
            '[[rule]]\nsensor_type = "x"\nunit = 7\nmin = 1\n',
            "line 3: unit is 7; expected a string of 1 to 128 characters",
        ),
        (X_IN_Y + 'min = "1"\n', "line 4: min is '1'; expected a finite number"),
        (X_IN_Y + "max = true\n", "line 4: max is true; expected a finite number"),
        (X_IN_Y + "max = nan\n", "line 4: max is nan; expected a finite number"),
        (X_IN_Y + "min = -inf\n", "line 4: min is -inf; expected a finite number"),
        (X_IN_Y + "max = 1" + "0" * 400 + "\n", f"line 4: max is 1{'0' * 59}…; expected a finite number"),
        (X_IN_Y + "min = 2\nmax = 1\n", "line 4: min 2.0 is above max 1.0; expected min <= max"),
        (
            X_IN_Y + "min = 1\n" + X_IN_Y + "max = 2\n",
            "line 6: a second rule for 'x' in 'y'; expected one for each sensor_type and unit",
        ),
        (
            '[[rule]]\nsensor_type = "temperature"\nunit = "F"\nmax = 86\n',
            "line 3: unit is 'F', but readings are converted to 'celsius'; expected unit 'celsius' and bounds in it",
        ),
        ('rule = [{sensor_type = "x", unit = "y"}]\n', "rule 1: neither min nor max"),
    ],
)
def test_an_error_is_one_line_that_names_file_and_line(rules_file, text, said):
    rules_file.write_text(text)
    with pytest.raises(UserError) as raised:
        load_rules(rules_file)
    assert str(raised.value).startswith(str(rules_file))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(rules_file))


def test_a_converted_unit_is_refused_only_for_its_own_type(rules_file):
    rules_file.write_text('[[rule]]\nsensor_type = "oven"\nunit = "F"\nmax = 500\n')
    assert load_rules(rules_file) == {("oven", "F"): Rule("oven", "F", None, 500.0)}


def test_line_separators_in_a_comment_do_not_shift_the_lines(rules_file):
    rules_file.write_text("# one\u2028still one\x85still\n" + X_IN_Y + "max = true\n")
    with pytest.raises(UserError, match="line 5: max is true"):
        load_rules(rules_file)


@pytest.mark.parametrize("content", [None, b"\xff\xfe[\0"])
def test_an_unreadable_file(rules_file, content):
    if content:
        rules_file.write_bytes(content)
    with pytest.raises(UserError, match=r"^cannot read the rules file .*rules.toml: [^\n]+$"):
        load_rules(rules_file)
