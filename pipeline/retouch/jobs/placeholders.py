"""Placeholders in a job file's addresses: ``{date}``, ``{name}`` and ``{env:NAME}``."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from retouch.errors import ConfigError
from retouch.validation import nearest

DATE: Final = "RETOUCH_DATE"  # variable that fixes {date}
KNOWN: Final = ("{date}", "{name}", "{env:NAME}")
# The addresses of all kinds of jobs; * is any entry of a list.
ADDRESSES: Final = (
    ("output",),
    ("manifest",),
    ("latents",),
    ("carry",),
    ("results",),
    ("reference",),
    ("weights",),
    ("editor", "weights"),
    ("metrics", "*", "weights"),
    ("row_metrics", "*", "weights"),
    ("targets", "*", "manifest"),
)
_FIELD: Final = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}]*))?\}")


def the_date(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
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


def filled(data: Mapping[str, Any], date: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return plain job data with the placeholders in its addresses filled in.

    Raises:
        ConfigError: an unknown placeholder, or a variable that is not set.
    """
    values = {"date": date, "name": data.get("name")}
    whole: Any = data
    for path in ADDRESSES:
        whole = _below(whole, path, "", values, environ)
    return dict(whole) | _carry(data, values, environ)


def _carry(data: Mapping[str, Any], values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return ``carry`` of a job with a date in its output: the outputs of other dates, unless the job sets it."""
    output = data.get("output")
    if data.get("kind", "edit") != "edit" or data.get("carry", "auto") != "auto" or "{date}" not in str(output):
        return {}
    return {"carry": _texts(output, "output", {**values, "date": "*"}, environ)}


def _below(node: Any, path: tuple[str, ...], where: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    """Return the node with all texts below a path filled in; what is missing or of another type stays as it is."""
    if not path:
        return _texts(node, where, values, environ)
    if path[0] == "*" and isinstance(node, list | tuple):
        return [_below(entry, path[1:], f"{where}.{number}", values, environ) for number, entry in enumerate(node)]
    if isinstance(node, Mapping) and path[0] in node:
        inner = _below(node[path[0]], path[1:], f"{where}.{path[0]}" if where else path[0], values, environ)
        return {**node, path[0]: inner}
    return node


def _texts(node: Any, where: str, values: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    if isinstance(node, Mapping):
        return {name: _texts(inner, f"{where}.{name}", values, environ) for name, inner in node.items()}
    if isinstance(node, list | tuple):
        return [_texts(inner, f"{where}.{number}", values, environ) for number, inner in enumerate(node)]
    if not isinstance(node, str):
        return node
    return _FIELD.sub(lambda found: _value(found, where, values, environ), node)


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
