"""Placeholders in a job file's addresses: ``{date}``, ``{name}`` and ``{env:NAME}``."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from retouch.errors import ConfigError
from retouch.jobs.addresses import replaced
from retouch.validation import nearest

DATE: Final = "RETOUCH_DATE"  # variable that fixes {date}
KNOWN: Final = ("{date}", "{name}", "{env:NAME}")
_FIELD: Final = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}]*))?\}")


def resolve_date(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the date of a job: as given, else the variable ``RETOUCH_DATE``, else today (UTC).

    Raises:
        ConfigError: it is not a date.
    """
    text, origin = (given, "--date") if given else (environ.get(DATE), f"the variable {DATE}")
    if not text:
        return dt.datetime.now(dt.UTC).date().isoformat()
    try:
        return dt.datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise ConfigError(f"{origin} is {text!r}, which is no date; give YYYY-MM-DD") from None


def fill_placeholders(data: Mapping[str, Any], date: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return plain job data with the placeholders in its addresses filled in.

    Raises:
        ConfigError: an unknown placeholder, or a variable that is not set.
    """
    values = {"date": date, "name": data.get("name")}

    def fill(field: str, text: str) -> str:
        return _filled_text(text, field, values, environ)

    return replaced(data, fill) | _carry(data, values, environ)


def _carry(data: Mapping[str, Any], values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return ``carry`` of a job with a date in its output: the outputs of other dates, unless the job sets it."""
    output = data.get("output")
    if data.get("kind", "edit") != "edit" or data.get("carry", "auto") != "auto":
        return {}
    if not isinstance(output, str) or "{date}" not in output:
        return {}
    return {"carry": _filled_text(output, "output", {**values, "date": "*"}, environ)}


def _filled_text(text: str, field: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: _value(found, field, values, environ), text)


def _value(found: re.Match[str], where: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    name, of = found[1], found[2]
    if name == "env" and of:
        if of not in environ:
            raise ConfigError(f"{where}: {found[0]}: there is no variable {of} in the environment; set it")
        return environ[of]
    if of is not None or name not in values:
        near = nearest(name, ("date", "name", "env"))
        raise ConfigError(f"{where}: no field {found[0]}{near}; there are: {', '.join(KNOWN)}")
    return (
        values[name] if isinstance(values[name], str) else found[0]
    )  # an invalid name is rejected later, with its field
