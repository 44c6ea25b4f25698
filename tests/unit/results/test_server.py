"""URLs of several PostgreSQL servers that stand in for each other."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import psycopg

from iot.results.server import parse_url


def arguments(url: str) -> dict[str, object]:
    """What libpq is given for a URL."""
    parsed = parse_url(url).set(drivername="postgresql+psycopg")
    _, args = psycopg.dialect().create_connect_args(parsed)
    return without_empty(args)


def without_empty(args: Mapping[str, object]) -> dict[str, object]:
    """An empty port is the default one."""
    return {name: value for name, value in args.items() if value not in (None, "", ",")}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@a:1,b:2/results?target_session_attrs=read-write",
        "postgresql://me@a,b:2/results?target_session_attrs=any",
        "postgresql://me:p%40ss@[::1]:1,b/results?target_session_attrs=primary&sslmode=require",
        "postgresql://a,b/results?application_name=x%40y&target_session_attrs=any",
        "postgresql://me@a:1,b:2?target_session_attrs=any",
        "postgresql://me@/results?host=a,b&port=1,2&target_session_attrs=any",
    ],
)
def test_a_url_with_several_hosts_means_what_libpq_takes_it_for(url):
    found = arguments(url)
    assert found == without_empty(conninfo_to_dict(url))
    # The name of the database is a URL, too.
    assert arguments(parse_url(url).render_as_string(hide_password=False)) == found


def test_the_driver_of_sqlalchemy_may_be_named():
    assert arguments("postgresql+psycopg://me@a:1,b:2/r") == arguments("postgresql://me@a:1,b:2/r")


@pytest.mark.parametrize(
    "url", ["postgresql://me@a,b/r", "postgresql://me@/r?host=a:1&host=b:2", "postgresql://me@/r?host=a,b"]
)
def test_of_several_servers_the_one_that_takes_writes_is_used(url):
    assert arguments(url)["target_session_attrs"] == "read-write"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:a,b@h:1/r",
        "postgresql://me:a,b@h/r?options=-csearch_path%3Da,b",
        "postgresql://me@h/my,db",
        "sqlite:////tmp/a,b.db",
        "sqlite:////tmp/a@b,c.db",
    ],
)
def test_a_comma_elsewhere_is_no_second_host(url):
    parsed = parse_url(url)
    assert "host" not in parsed.query
    assert "target_session_attrs" not in parsed.query


@pytest.mark.parametrize("url", ["postgresql://me@a:x,b/r", "postgresql://me@a:1:2,b/r", "postgresql://me@[::1,b/r"])
def test_a_malformed_host_is_refused(url):
    with pytest.raises((ValueError, exc.ArgumentError)):
        parse_url(url)
