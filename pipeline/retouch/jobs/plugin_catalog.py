"""Installed plug-ins, each with its package, inputs, params and result columns; broken ones with the reason."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Final

from retouch import plugins
from retouch.errors import PluginError
from retouch.jobs.reference import Field, fields
from retouch.jobs.schema import params_schema
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
    inputs: tuple[str, ...] = ()  # manifest columns that an editor reads, apart from the image
    params: tuple[Field, ...] = ()  # an editor's params; a metric's options of load
    columns: Mapping[str, str] = field(default_factory=dict)  # of the results: name to Arrow type
    error: str | None = None  # why it does not import

    def record(self) -> dict[str, Any]:
        """Return the plug-in as a mapping, for ``--json``."""
        return asdict(self)


def installed(kinds: Iterable[plugins.Kind] = plugins.KINDS) -> list[Plugin]:
    """List all plug-ins of these kinds, by kind and name."""
    return [_plugin(kind, point) for kind in kinds for _, point in sorted(plugins.available(kind).items())]


def named(name: str) -> list[Plugin]:
    """List the plug-ins of this name, of any kind.

    Raises:
        PluginError: no plug-in has this name.
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
        tuple(_parameters(kind, found)),
        dict(getattr(found, "columns", {})),
    )


def _parameters(kind: plugins.Kind, found: Any) -> list[Field]:
    if kind == "editors":
        schema = params_schema(found.Params)
        return fields(schema, schema)
    return [] if kind == "sinks" else _options(found)


def _options(found: Any) -> list[Field]:
    """List the arguments of ``load`` apart from the weights and the device."""
    arguments = inspect.signature(found.load).parameters.values()
    return [
        Field(arg.name, str(arg.annotation), "required" if arg.default is arg.empty else repr(arg.default), "")
        for arg in arguments
        if arg.name not in _LOADS and arg.kind in (arg.POSITIONAL_OR_KEYWORD, arg.KEYWORD_ONLY)
    ]
