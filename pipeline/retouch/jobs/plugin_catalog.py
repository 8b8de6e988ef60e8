"""What is installed: each plug-in with its package, what it reads, its params and the columns that it fills.

Imports every plug-in; one that does not import is listed with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Final

from pydantic import TypeAdapter

from retouch import plugins
from retouch.errors import PluginError
from retouch.jobs.field_tables import Field, fields
from retouch.jobs.schema import comments
from retouch.validation import nearest

_LOADS: Final = ("weights", "device")  # arguments of every load; further ones are the job's options


@dataclass(frozen=True)
class Plugin:
    """One installed plug-in."""

    kind: plugins.Kind
    name: str
    package: str  # the distribution that brings it, with its version
    value: str  # package.module:Class
    about: str = ""  # first line of its docstring
    version: str | None = None  # of an editor's pixels
    inputs: tuple[str, ...] = ()  # manifest columns that an editor reads, beside the image
    params: tuple[Field, ...] = ()  # an editor's; of others the options of their load
    columns: Mapping[str, str] = field(default_factory=dict)  # of the results: name to Arrow type
    error: str | None = None  # why it does not import

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def installed(kinds: Iterable[plugins.Kind] = plugins.KINDS) -> list[Plugin]:
    """All plug-ins of these kinds, by kind and name."""
    return [_plugin(kind, point) for kind in kinds for _, point in sorted(plugins.available(kind).items())]


def named(name: str) -> list[Plugin]:
    """The plug-ins of this name, of whatever kind.

    Raises:
        PluginError: there is none.
    """
    points = [(kind, plugins.available(kind)) for kind in plugins.KINDS]
    found = [_plugin(kind, known[name]) for kind, known in points if name in known]
    if not found:
        every = sorted(name for _, known in points for name in known)
        raise PluginError(f"no plug-in named {name!r}{nearest(name, every)}; installed: {', '.join(every)}")
    return found


def _plugin(kind: plugins.Kind, point: EntryPoint) -> Plugin:
    package = "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    try:
        found: Any = plugins.find(kind, point.name)
    except PluginError as error:
        return Plugin(kind, point.name, package, point.value, error=str(error))
    about = (inspect.getdoc(found) or "").partition("\n")[0]
    return Plugin(
        kind,
        point.name,
        package,
        point.value,
        about,
        getattr(found, "version", None),
        tuple(sorted(getattr(found, "inputs", ()))),
        tuple(_params(found.Params) if kind == "editors" else _options(found) if kind != "sinks" else ()),
        dict(getattr(found, "columns", {})),
    )


def _params(params: type) -> list[Field]:
    schema = TypeAdapter(params).json_schema()
    said = comments(params)
    for name, node in schema.get("properties", {}).items():
        node["description"] = said.get(name, "")
        if node.get("default", ...) is None and {"type": "null"} not in node.get("anyOf", ()):
            del node["default"]  # filled in later, from another field
    return fields(schema, schema)


def _options(found: Any) -> list[Field]:
    """Keyword arguments of ``load`` beside the weights and the device."""
    arguments = inspect.signature(found.load).parameters.values()
    return [
        Field(one.name, str(one.annotation), "required" if one.default is one.empty else repr(one.default), "")
        for one in arguments
        if one.name not in _LOADS and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
