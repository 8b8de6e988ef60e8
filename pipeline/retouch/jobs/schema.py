"""JSON Schema (2020-12) of job files, for editors that complete and check YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from retouch import plugins
from retouch.errors import ConfigError
from retouch.jobs.config import KINDS
from retouch.jobs.finetune_params import FinetuneParams
from retouch.jobs.train_params import TrainParams
from retouch.validation import nearest

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/{model}"
_PARAMS: Final[Mapping[str, type]] = {"FinetuneJob": FinetuneParams, "TrainJob": TrainParams}  # of kinds without editor
_METRICS: Final[tuple[tuple[str, str, plugins.Kind], ...]] = (
    ("EditJob", "metrics", "metrics"),
    ("EvaluateJob", "metrics", "set_metrics"),
    ("EvaluateJob", "row_metrics", "metrics"),
)

Schema = dict[str, Any]


def job_schema(kind: str | None = None) -> Schema:
    """Return the schema of a job file.

    Args:
        kind: of this kind of job only; else of all, selected by ``kind``.

    Raises:
        ConfigError: there is no such kind.
        PluginError: an installed editor does not import.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"no kind {kind!r}{nearest(kind, KINDS)}; there are: {', '.join(KINDS)}")
    kinds = {name: model for name, model in KINDS.items() if kind in (None, name)}
    _, whole = models_json_schema([(model, "validation") for model in kinds.values()], ref_template=_REF)
    found: Schema = whole["$defs"]
    for name, params in _PARAMS.items():
        if name in found:
            about = found[name]["properties"]["params"]["description"]
            found[name]["properties"]["params"] = {"$ref": f"#/$defs/{params.__name__}", "description": about}
            _add_params(found, params.__name__, params)
    _add_plugins(found)
    for part in found.values():
        _tidy(part)
    root = {"$schema": DIALECT, "title": "A job of Retouch", "type": "object"}
    return {**root, **_by_kind(kinds), "$defs": dict(sorted(found.items()))}


def params_schema(params: type) -> Schema:
    """Return the schema of an editor's Params; references are to ``$defs`` of their own."""
    schema: Schema = TypeAdapter(params).json_schema(ref_template=_REF)
    _tidy(schema)
    return schema


def _by_kind(kinds: Mapping[str, type]) -> Schema:
    """Return the conditions that select a job's schema by its ``kind``; without one, it is an edit."""
    if len(kinds) == 1:
        return {"$ref": f"#/$defs/{next(iter(kinds.values())).__name__}"}
    branches = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": [] if name == "edit" else ["kind"]},
            "then": {"$ref": f"#/$defs/{model.__name__}"},
        }
        for name, model in kinds.items()
    ]
    return {"properties": {"kind": {"enum": list(kinds), "default": "edit"}}, "allOf": branches}


def _add_plugins(found: Schema) -> None:
    """Add the names of installed plug-ins and each editor's params; ``package.module:Class`` is valid, too."""
    if "EditorSpec" in found:
        editors = plugins.available("editors")
        found["EditorSpec"]["properties"]["name"] |= _one_of(editors)
        branches = []
        for name in sorted(editors):
            editor: Any = plugins.find("editors", name)
            _add_params(found, f"params.{name}", editor.Params)
            then = {"properties": {"params": {"$ref": f"#/$defs/params.{name}"}}}
            branches.append({"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": then})
        found["EditorSpec"]["allOf"] = branches
    if "EditJob" in found:
        found["EditJob"]["properties"]["sink"] |= _one_of(plugins.available("sinks"))
    if "MetricSpec" in found:
        both = [*plugins.available("metrics"), *plugins.available("set_metrics")]
        found["MetricSpec"]["properties"]["name"] |= _one_of(both)
    for job, name, kind in _METRICS:
        if job in found:
            entry = {"type": "string", **_one_of(plugins.available(kind))}
            items = {"anyOf": [entry, {"$ref": "#/$defs/MetricSpec"}]}
            found[job]["properties"][name] |= {"anyOf": [{"type": "array", "items": items}, {"type": "null"}]}


def _one_of(names: Iterable[str]) -> Schema:
    return {"anyOf": [{"enum": sorted(names)}, {"pattern": "^[^:]+:[^:]+$"}]}


def _add_params(found: Schema, name: str, params: type) -> None:
    schema = params_schema(params)
    found.update(schema.pop("$defs", {}))
    found[name] = {**schema, "title": name, "additionalProperties": False}


def _tidy(schema: Schema) -> None:
    """Keep the first paragraph of a docstring, one line per field, and no default that the field would not accept."""
    schema["description"] = schema.get("description", "").partition("\n\n")[0]
    for field in schema.get("properties", {}).values():
        if "description" in field:
            field["description"] = " ".join(field["description"].split())
        if field.get("default", ...) is None and {"type": "null"} not in field.get("anyOf", ()):
            del field["default"]  # filled in from another field
