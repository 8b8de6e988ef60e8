"""Cron expressions and time zones that Kubernetes would refuse are refused before anything is rendered."""

from __future__ import annotations

import datetime as dt

import pytest
from retouch.deployment.kubernetes.cron import check_cron, check_zone, is_daily_at_most, shortest_gap
from retouch.errors import ConfigError


@pytest.mark.parametrize(
    "expression",
    ["0 2 * * *", "*/15 * * * *", "30 1 * * mon-fri", "0 0 1 jan,JUL *", "5-20/5 0-23 1,15 * 0", "0 0 29 2 *"],
)
def test_what_kubernetes_accepts_is_accepted(expression: str) -> None:
    check_cron(expression)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("every day", "2 fields instead of 5"),
        ("@daily", "1 fields instead of 5"),
        ("0 0 2 * * *", "6 fields instead of 5"),
        ("TZ=UTC 0 2 * * *", "6 fields"),
        ("60 2 * * *", "the minute"),
        ("0 24 * * *", "the hour"),
        ("0 2 0 * *", "the day of the month"),
        ("0 2 * 13 *", "the month"),
        ("0 2 * * 7", "the day of the week"),
        ("0 2 * * sun-7", "the day of the week"),
        ("0 2 * * fri-mon", "ends before it begins"),
        ("*/0 2 * * *", "the minute"),
        ("0 2 L * *", "the day of the month"),
        ("0 2 * * 5#2", "the day of the week"),
        ("0 2 ? * *", "the day of the month"),
        ("0 -2 * * *", "the hour"),
        ("0 2, * * *", "the hour"),
        ("0 2 30 2 *", "never due"),
    ],
)
def test_what_kubernetes_refuses_or_is_never_due_is_refused_with_the_field(expression: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_cron(expression)


def test_time_zones_are_those_of_the_tz_database() -> None:
    for name in ("Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"):
        check_zone(name)
    for name in ("Europe/Bonn", "Local", "", "../etc/passwd", "Europe", "localtime"):
        with pytest.raises(ConfigError, match="no time zone"):
            check_zone(name)
    with pytest.raises(ConfigError, match="Europe/Berlin is one"):
        check_zone("europe/berlin")


@pytest.mark.parametrize(
    ("expression", "gap"),
    [
        ("0 2 * * *", dt.timedelta(days=1)),
        ("0 2 * * 1", dt.timedelta(days=7)),
        ("0 */6 * * *", dt.timedelta(hours=6)),
        ("0 2,3 * * *", dt.timedelta(hours=1)),
        ("0 0 29 2 *", dt.timedelta(days=4 * 365 + 1)),
    ],
)
def test_the_shortest_gap_is_between_any_two_runs(expression: str, gap: dt.timedelta) -> None:
    assert shortest_gap(expression) == gap


def test_a_date_identifies_a_run_only_if_no_day_has_two() -> None:
    assert is_daily_at_most("30 2 * * 1,3")
    assert not is_daily_at_most("0 2,14 * * *")
    assert not is_daily_at_most("*/5 2 * * *")
