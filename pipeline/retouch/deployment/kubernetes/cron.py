"""Cron expressions and time zones that Kubernetes accepts, and how often an expression is due.

croniter parses. Kubernetes accepts less: no words such as ``@daily``, no ``L`` or ``#``, no range past the end, and
Sunday only as 0.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
import zoneinfo
from typing import Final

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from retouch.errors import ConfigError

EXAMPLE: Final = "'0 2 * * *' is every night at two"
_FIELDS: Final = ("minute", "hour", "day of the month", "month", "day of the week")
_PART: Final = re.compile(r"(?:\*|([0-9]+|[a-z]{3})(?:-([0-9]+|[a-z]{3}))?)(?:/0*[1-9][0-9]*)?", re.IGNORECASE)
_RUNS_COMPARED: Final = 400  # more than a year of a daily schedule, so that its shortest gap is among them


def check_cron(expression: str) -> None:
    """Raise if Kubernetes would not accept the expression, or if it is never due.

    Raises:
        ConfigError: names the field that is wrong.
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"cron {expression!r} has {len(fields)} fields instead of 5 (minute, hour, day, month, weekday): {EXAMPLE}"
        )
    for position, text in enumerate(fields):
        _check_field(position, text)
    try:
        _runs(expression, 1)
    except CroniterBadDateError:
        raise ConfigError(f"cron {expression!r} is never due: there is no such day; {EXAMPLE}") from None


def check_zone(name: str) -> None:
    """Raise if there is no such time zone; ``Local`` is none, because it would be that of some machine.

    Raises:
        ConfigError: suggests one.
    """
    zones = zoneinfo.available_timezones()
    if name in zones and name not in ("localtime", "Factory"):
        return
    near = sorted(zone for zone in zones if zone.rpartition("/")[2].lower() == name.rpartition("/")[2].lower())
    raise ConfigError(f"no time zone is called {name!r}; {near[0] if near else 'Europe/Berlin'} is one")


def shortest_gap(expression: str) -> dt.timedelta:
    """Return the shortest time between two runs, without changes to and from summer time."""
    runs = _runs(expression, _RUNS_COMPARED)
    return min(later - earlier for earlier, later in itertools.pairwise(runs))


def is_daily_at_most(expression: str) -> bool:
    """Return whether no day has two runs, so that the date identifies a run."""
    minute, hour = expression.split()[:2]
    return minute.isdecimal() and hour.isdecimal()


def _check_field(position: int, text: str) -> None:
    what = f"cron: the {_FIELDS[position]} is {text!r}"
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise ConfigError(f"{what}; Kubernetes accepts *, 1, 1-5, 1,3 and */2")
        ends = [end for end in found.groups() if end is not None]
        try:
            values = [_value(position, end) for end in ends]
        except CroniterBadCronError:
            raise ConfigError(f"{what}: there is no such {_FIELDS[position]}") from None
        if any(end.isdecimal() and int(end) != value for end, value in zip(ends, values, strict=True)):
            raise ConfigError(f"{what}: Kubernetes has Sunday as 0, not as 7")  # which croniter reads as 0
        if values != sorted(values):
            raise ConfigError(f"{what}: the range ends before it begins")


def _value(position: int, text: str) -> int:
    """Return the number of one day, month and so on, which may be a name."""
    fields = ["*"] * len(_FIELDS)
    fields[position] = text
    return int(croniter.expand(" ".join(fields))[0][position][0])


def _runs(expression: str, count: int) -> list[dt.datetime]:
    schedule = croniter(expression, dt.datetime(2026, 1, 1), max_years_between_matches=10)
    return [schedule.get_next(dt.datetime) for _ in range(count)]
