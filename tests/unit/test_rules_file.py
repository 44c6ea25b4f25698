"""Rules files: what is read from them, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.alerts import DEFAULT_RULES, Rule, Rules
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
    assert load_rules(rules_file) == Rules((Rule("temperature", "celsius", None, 25.0), Rule("größe", "m³", -1.5, 2.0)))


def test_a_rule_says_when_an_alarm_begins_and_ends(rules_file):
    rules_file.write_text(
        """[[rule]]
sensor_type = "co2"
unit = "ppm"
min = 300
max = 1200
severity = "info"
for = "3s"
clear_min = 350
clear_max = 1000.5
keep_firing_for = 90
max_silence = "1h30m"

[[rule]]
sensor_type = "co2"
unit = "ppm"
max = 5000
severity = "critical"

[[rule]]
sensor_type = "door"
unit = "boolean"
max_silence = 0.5
"""
    )
    assert load_rules(rules_file) == Rules(
        (
            Rule("co2", "ppm", 300.0, 1_200.0, "info", 3.0, 350.0, 1_000.5, 90.0, 5_400.0),
            Rule("co2", "ppm", None, 5_000.0, "critical"),
            Rule("door", "boolean", max_silence_s=0.5),
        )
    )


def test_a_file_with_byte_order_mark_and_windows_line_ends(rules_file):
    rules_file.write_bytes(b'\xef\xbb\xbf[[rule]]\r\nsensor_type = "x"\r\nunit = "y"\r\nmin = 1\r\n')
    assert load_rules(rules_file) == Rules((Rule("x", "y", 1.0),))


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
        (
            X_IN_Y + "mininum = 1\n",
            "line 4: unknown key 'mininum'; expected sensor_type, unit, min, max, severity, for, clear_min, clear_max, "
            "keep_firing_for or max_silence",
        ),
        (X_IN_Y, "line 1: neither min nor max nor max_silence; expected at least one of them"),
        (X_IN_Y + "for = 1\n", "line 1: neither min nor max nor max_silence; expected at least one of them"),
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
            "line 6: a second rule for 'x' in 'y' with severity 'warning'; "
            "expected one for each sensor_type, unit and severity",
        ),
        (
            (X_IN_Y + "severity = 'info'\nmin = 1\n") * 2,
            "line 7: a second rule for 'x' in 'y' with severity 'info'; expected one for each",
        ),
        (
            X_IN_Y + "min = 1\nseverity = 'page'\n",
            "line 5: severity is 'page'; expected 'info', 'warning' or 'critical'",
        ),
        (X_IN_Y + "min = 1\nseverity = ['info']\n", "line 5: severity is ['info']; expected 'info', 'warning' or"),
        (X_IN_Y + "min = 1\nclear_min = 'a'\n", "line 5: clear_min is 'a'; expected a finite number"),
        (X_IN_Y + "max = 1\nclear_min = 1\n", "line 5: clear_min without min; expected both"),
        (X_IN_Y + "clear_max = 1\nmax_silence = 1\n", "line 4: clear_max without max; expected both"),
        (X_IN_Y + "min = 2\nclear_min = 1\n", "line 5: min 2.0 is above clear_min 1.0; expected min <= clear_min"),
        (X_IN_Y + "clear_max = 3\nmax = 2\n", "line 4: clear_max 3.0 is above max 2.0; expected clear_max <= max"),
        (X_IN_Y + "min = 1\nmax = 2\nclear_min = 3\n", "line 6: clear_min 3.0 is above max 2.0; expected clear_min <="),
        (X_IN_Y + "min = 1\nmax = 2\nclear_max = 0\n", "line 6: min 1.0 is above clear_max 0.0; expected min <= clear"),
        (
            X_IN_Y + "min = 1\nmax = 9\nclear_max = 4\nclear_min = 5\n",
            "line 6: clear_min 5.0 is above clear_max 4.0; expected clear_min <= clear_max",
        ),
        *(
            (X_IN_Y + f"min = 1\n{key} = {value}\n", f"line 5: {key} is {value}; expected a duration such as 30s, 5m")
            for key in ("for", "keep_firing_for", "max_silence")
            for value in ("-1", "true", "''", "'soon'", "'-3s'", "'5 m'", "'1h1h'", "nan", "inf", "'36501d'", "[]")
        ),
        (X_IN_Y + "max_silence = 0\n", "line 4: max_silence is 0; expected more than 0"),
        (X_IN_Y + "max_silence = '0s'\n", "line 4: max_silence is '0s'; expected more than 0"),
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
    assert load_rules(rules_file) == Rules((Rule("oven", "F", None, 500.0),))


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
