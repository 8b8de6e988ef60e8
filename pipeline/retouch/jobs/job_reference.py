"""Every field of every kind of job, and the params of every installed editor, as Markdown for ``jobs/README.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from retouch.jobs.config import KINDS
from retouch.jobs.field_tables import fields, markdown
from retouch.jobs.schema import job_schema

_PARAMS = "params."  # before an editor's name in the schema's $defs


def job_reference(kind: str | None = None) -> str:
    """The tables.

    Args:
        kind: of this kind of job only; else of all.

    Raises:
        ConfigError: there is no such kind.
        PluginError: an installed editor does not import.
    """
    schema = job_schema(kind)
    parts = [part for name in KINDS if kind in (None, name) for part in _kind(name, schema)]
    if kind in (None, "edit"):
        parts += [part for name in schema["$defs"] if name.startswith(_PARAMS) for part in _params(name, schema)]
    return "\n\n".join(parts) + "\n"


def _kind(name: str, schema: dict[str, Any]) -> Iterator[str]:
    part = schema["$defs"][KINDS[name].__name__]
    yield f"## `kind: {name}`"
    yield _sentence(part["description"].partition("``: ")[2])
    yield markdown(fields(part, schema))


def _params(name: str, schema: dict[str, Any]) -> Iterator[str]:
    part = schema["$defs"][name]
    yield f"### `editor.params` of `{name.removeprefix(_PARAMS)}`"
    yield part["description"]
    yield markdown(fields(part, schema))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
