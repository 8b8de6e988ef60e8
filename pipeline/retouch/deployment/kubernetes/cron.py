"""Cron expressions and time zones as Kubernetes reads them. Knows when something is due, not what.

Kubernetes and KubeRay read five fields by the same rules, which are narrower than most libraries': no names of whole
schedules, no ``L`` or ``#``, no range that goes round the end, and Sunday is 0 alone.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
import zoneinfo
from dataclasses import dataclass
from typing import Final

from retouch.errors import ConfigError

EXAMPLE: Final = "'0 2 * * *' is every night at two"
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RUNS_LOOKED_AT: Final = 400  # of a daily schedule more than a year, so that its shortest gap is seen


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()  # the first stands for ``least``

    def check(self, text: str) -> None:
        """Raises ConfigError where Kubernetes would not take the text."""
        for part in text.lower().split(","):
            found = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/([0-9]+))?", part)
            if found is None or (found[1] == "*" and found[2]) or (found[3] is not None and not int(found[3])):
                raise ConfigError(f"cron: {self.name} is {text!r}; there are *, 1, 1-5, 1,3 and */2")
            ends = [self._number(end, text) for end in (found[1], found[2]) if end and end != "*"]
            if ends != sorted(ends):
                raise ConfigError(f"cron: {self.name} is {text!r}: the range ends before it begins")

    def _number(self, value: str, text: str) -> int:
        if value in self.names:
            return self.least + self.names.index(value)
        if value.isascii() and value.isdecimal() and self.least <= int(value) <= self.most:
            return int(value)
        names = f", or {self.names[0]} to {self.names[-1]}" if self.names else ""
        raise ConfigError(f"cron: {self.name} is {text!r}; it goes from {self.least} to {self.most}{names}")


_FIELDS: Final = (
    _Field("the minute", 0, 59),
    _Field("the hour", 0, 23),
    _Field("the day of the month", 1, 31),
    _Field("the month", 1, 12, _MONTHS),
    _Field("the day of the week", 0, 6, _DAYS),
)


def check_cron(expression: str) -> None:
    """Nothing where Kubernetes takes the expression and it is due at some time.

    Raises:
        ConfigError: it does not, or it never is.
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"cron {expression!r} has {len(fields)} fields instead of 5 (minute, hour, day, month, weekday): {EXAMPLE}"
        )
    for field, text in zip(_FIELDS, fields, strict=True):
        field.check(text)
    from croniter import CroniterBadDateError

    try:
        _runs(expression, 1)
    except CroniterBadDateError:
        raise ConfigError(f"cron {expression!r} is never due: there is no such day; {EXAMPLE}") from None


def check_zone(name: str) -> None:
    """Nothing where there is such a time zone.

    Raises:
        ConfigError: there is none; ``Local`` is none either, for it would be that of some machine.
    """
    there = zoneinfo.available_timezones()
    if name in there and name not in ("localtime", "Factory"):
        return
    near = sorted(zone for zone in there if zone.rpartition("/")[2].lower() == name.rpartition("/")[2].lower())
    raise ConfigError(f"no time zone is called {name!r}; {near[0] if near else 'Europe/Berlin'} is one")


def shortest_gap(expression: str) -> dt.timedelta:
    """The shortest time between two runs, clocks that are put forward or back left aside."""
    runs = _runs(expression, _RUNS_LOOKED_AT)
    return min(later - earlier for earlier, later in itertools.pairwise(runs))


def is_daily_at_most(expression: str) -> bool:
    """Whether no day has two runs, so that a date tells them apart."""
    minute, hour = expression.split()[:2]
    return minute.isdecimal() and hour.isdecimal()


def _runs(expression: str, count: int) -> list[dt.datetime]:
    from croniter import croniter

    following = croniter(expression, dt.datetime(2026, 1, 1), max_years_between_matches=10)
    return [following.get_next(dt.datetime) for _ in range(count)]
