"""The file of receivers: what it may say, and the line of each error. No error shows a secret."""

from __future__ import annotations

import pickle

import pytest

from iot.alarms.grouping import Routing
from iot.alarms.model import Matcher
from iot.alarms.notify_file import REPORTING, load_notify
from iot.alerts import SEVERITIES
from iot.settings import UserError

SECRET = "s3cr3t-t0k3n"
WEBHOOK = 'name = "ops"\nwebhook = "http://localhost/x"\n'


def load(tmp_path, text, **environment):
    path = tmp_path / "notify.toml"
    path.write_text(text)
    return load_notify(path, environment)


def test_defaults_are_those_of_alertmanager(tmp_path):
    (receiver,) = load(tmp_path, f"[[receiver]]\n{WEBHOOK}").receivers
    assert (receiver.name, receiver.kind, receiver.url.reveal()) == ("ops", "webhook", "http://localhost/x")
    assert receiver.max_alerts == 500
    routing = receiver.routing
    assert (routing.group_by, routing.group_wait_s, routing.group_interval_s) == (("rule",), 30, 300)
    assert (routing.repeat_interval_s, routing.send_resolved) == (4 * 3600, True)


def test_a_receiver_overrides_the_top_level(tmp_path):
    text = """
        group_by = []
        group_wait = 5
        group_interval = "1m"
        external_url = "https://iot.example.org/"
        [[receiver]]
        name = "a"
        webhook = "https://user:pass@localhost:8443/a?b=c"
        headers = { Authorization = "Bearer x" }
        [[receiver]]
        name = "b"
        apprise = "json://localhost/b"
        group_by = ["..."]
        repeat_interval = "1d"
        send_resolved = false
        severity = ["critical"]
        matchers = ["location = lab", 'rule =~ "HIGH_.*"']
        [[receiver]]
        name = "c"
        alertmanager = "http://localhost:9093"
        severity = ["warning", "critical"]
    """
    notify = load(tmp_path, text)
    assert notify.external_url == "https://iot.example.org"
    a, b, c = notify.receivers
    assert a.routing == Routing((), 5.0, 60.0, 4 * 3600.0, True, SEVERITIES)
    assert {name: value.reveal() for name, value in a.headers.items()} == {"Authorization": "Bearer x"}
    assert b.routing == Routing(
        ("rule", "severity", "sensor_id", "sensor_type", "location", "unit"),
        5.0,
        60.0,
        86_400.0,
        False,
        ("critical",),
        (Matcher("location", "lab"), Matcher("rule", "HIGH_.*", is_regex=True)),
    )
    assert (c.routing.group_wait_s, c.routing.repeat_interval_s) == (0, REPORTING.repeat_interval_s)


def test_secrets_come_from_the_environment(tmp_path):
    text = '[[receiver]]\nname = "ops"\nwebhook = "http://localhost/${TOKEN}/$${x}"\nheaders = {X-Key = "a ${KEY}"}\n'
    (receiver,) = load(tmp_path, text, TOKEN=f"{SECRET}\n", KEY="k").receivers
    assert receiver.url.reveal() == f"http://localhost/{SECRET}/${{x}}"
    assert receiver.headers["X-Key"].reveal() == "a k"


def test_no_secret_is_printed_or_stored(tmp_path):
    text = f'[[receiver]]\nname = "ops"\nwebhook = "http://localhost/{SECRET}"\nheaders = {{X-Key = "{SECRET}"}}\n'
    notify = load(tmp_path, text)
    assert SECRET not in repr(notify) + str(notify) + f"{notify.receivers[0].url}"
    with pytest.raises(TypeError):
        pickle.dumps(notify)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "expected one or more [[receiver]] tables"),
        ("receiver = 3", 1, "expected one or more [[receiver]] tables"),
        (f"\ngroup_wayt = 3\n[[receiver]]\n{WEBHOOK}", 2, "unknown key 'group_wayt'"),
        (f"\ngroup_wait = '3 minutes'\n[[receiver]]\n{WEBHOOK}", 2, "group_wait: expected a duration"),
        (f"\ngroup_wait = true\n[[receiver]]\n{WEBHOOK}", 2, "group_wait: expected a duration"),
        (f"\ngroup_wait = -1\n[[receiver]]\n{WEBHOOK}", 2, "group_wait: expected a duration"),
        (f"\nrepeat_interval = '0s'\n[[receiver]]\n{WEBHOOK}", 2, "at least 1s"),
        (f"\ngroup_by = 'rule'\n[[receiver]]\n{WEBHOOK}", 2, "group_by: expected a list"),
        (f"\ngroup_by = ['alertname']\n[[receiver]]\n{WEBHOOK}", 2, "group_by: expected a list of rule, severity"),
        (f"\ngroup_by = [['rule']]\n[[receiver]]\n{WEBHOOK}", 2, "group_by: expected a list"),
        (f"\ngroup_by = ['rule', 'rule']\n[[receiver]]\n{WEBHOOK}", 2, "group_by: expected a list"),
        (f"\nexternal_url = 'iot'\n[[receiver]]\n{WEBHOOK}", 2, "external_url: expected"),
        ("[[receiver]]\nname = 'x'", 1, "no address; expected one of webhook, alertmanager and apprise"),
        (f"[[receiver]]\n{WEBHOOK}apprise = 'json://x'", 4, "both webhook and apprise"),
        (f"[[receiver]]\n{WEBHOOK}header = 1", 4, "unknown key 'header' of a receiver with webhook; expected name"),
        ("[[receiver]]\nname = 'x'\nalertmanager = 'http://x'\ngroup_by = []", 4, "unknown key 'group_by'"),
        ("[[receiver]]\nwebhook = 'http://x'", 1, "name: expected a text"),
        ("[[receiver]]\nwebhook = 'http://x'\nname = ''", 3, "name: expected a text"),
        ('[[receiver]]\nwebhook = "http://x"\nname = "a\\u001b"', 3, "name: expected a text"),
        (f"[[receiver]]\n{WEBHOOK}[[receiver]]\n{WEBHOOK}", 5, "a second receiver 'ops'"),
        (f"[[receiver]]\n{WEBHOOK}send_resolved = 1", 4, "send_resolved: expected true or false"),
        (f"[[receiver]]\n{WEBHOOK}max_alerts = -1", 4, "max_alerts: expected a whole number"),
        (f"[[receiver]]\n{WEBHOOK}severity = 'critical'", 4, "severity: expected a list of info, warning, critical"),
        (f"[[receiver]]\n{WEBHOOK}severity = ['bad']", 4, "severity: expected a list"),
        (f"[[receiver]]\n{WEBHOOK}severity = []", 4, "severity: expected a list"),
        (f"[[receiver]]\n{WEBHOOK}matchers = ['x = 1']", 4, "matchers: unknown field 'x'"),
        (f"[[receiver]]\n{WEBHOOK}matchers = 'x'", 4, "matchers: expected a list"),
        (f"[[receiver]]\n{WEBHOOK}headers = 'x'", 4, "headers: expected a table"),
        (f"[[receiver]]\n{WEBHOOK}headers = {{'a b' = 'x'}}", 4, "headers: 'a b' cannot be set"),
        (f"[[receiver]]\n{WEBHOOK}headers = {{Host = 'x'}}", 4, "headers: 'Host' cannot be set"),
        (f"[[receiver]]\n{WEBHOOK}[receiver.headers]\nX-A = 3", 4, "headers: expected a text"),
    ],
)
def test_an_error_names_file_line_key_and_what_is_expected(tmp_path, text, line, expected):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'notify.toml'}, line {line}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'webhook = "localhost/{SECRET}"', "begins with http:// or https:// and a host"),
        (f'webhook = "http://local host/{SECRET}"', "begins with http:// or https:// and a host"),
        (f'webhook = "http://[{SECRET}/x"', "begins with http:// or https:// and a host"),
        (f'webhook = "http://localhost:{SECRET}/"', "begins with http:// or https:// and a host"),
        (f'webhook = "http:///{SECRET}"', "begins with http:// or https:// and a host"),
        (f'alertmanager = "ftp://localhost/{SECRET}"', "begins with http:// or https:// and a host"),
        (f'apprise = "nobody://{SECRET}"', "does not know this URL"),
        (f'apprise = "slack://{SECRET}"', "does not know this URL"),
        (f'apprise = "{SECRET}"', "does not know this URL"),
        (f'webhook = "http://x/${{MISSING}}{SECRET}"', "set the variable MISSING"),
        (f'webhook = "http://x/${{{SECRET}"', "write $${ for a plain ${"),
        ("webhook = 3", "webhook: expected a text"),
        ('webhook = ""', "webhook: expected a text"),
        (f'webhook = "http://x"\nheaders = {{X = "{SECRET}\\n"}}', "without control characters"),
        (f'webhook = "http://x/{SECRET}', "not TOML"),
        (f'webhook = "http://x/{SECRET}\\x"', "not TOML"),
        (f'webhook = "http://x/{SECRET}"\nwebhook = "{SECRET}"', "not TOML"),
        (f"webhook = http://x/{SECRET}", "not TOML"),
    ],
)
def test_no_error_shows_a_secret(tmp_path, text, expected, caplog, capfd):
    with pytest.raises(UserError) as caught:
        load(tmp_path, f'[[receiver]]\nname = "x"\n{text}\n', KEY=SECRET)
    assert expected in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error) + str(error) + repr(vars(error))
        error = error.__cause__
    output = capfd.readouterr()
    assert SECRET not in caplog.text + output.out + output.err
