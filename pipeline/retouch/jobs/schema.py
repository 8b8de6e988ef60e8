"""JSON Schema (2020-12) of job files, for editors that complete and check YAML.

Made from the models. What a field is for is read from its comment, in the source of the model that has it.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
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
    """The schema of a job file.

    Args:
        kind: of this kind of job only; else of all, told apart by ``kind``.

    Raises:
        ConfigError: there is no such kind.
        PluginError: an installed editor does not import.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"no kind {kind!r}{nearest(kind, KINDS)}; there are: {', '.join(KINDS)}")
    kinds = {name: model for name, model in KINDS.items() if kind in (None, name)}
    _, whole = models_json_schema([(model, "validation") for model in kinds.values()], ref_template=_REF)
    found: Schema = whole["$defs"]
    _describe(found, kinds.values())
    for name, params in _PARAMS.items():
        if name in found:
            said = found[name]["properties"]["params"].get("description", "")
            found[name]["properties"]["params"] = {"$ref": f"#/$defs/{params.__name__}", "description": said}
            _add_params(found, params.__name__, params)
    _add_plugins(found)
    for part in found.values():
        _tidy(part)
    root = {"$schema": DIALECT, "title": "A job of Retouch", "type": "object"}
    return {**root, **_by_kind(kinds), "$defs": dict(sorted(found.items()))}


def _by_kind(kinds: Mapping[str, type]) -> Schema:
    """The job itself: of the kind that it says it is; without one, an edit."""
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
    """Names of what is installed, and each editor's own params; a class of one's own may stand there, too."""
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
    schema = TypeAdapter(params).json_schema(ref_template=_REF)
    found.update(schema.pop("$defs", {}))
    found[name] = {**schema, "title": name, "additionalProperties": False}
    _comment(found[name], params)


def _tidy(schema: Schema) -> None:
    """Of a docstring its first paragraph, and no default that the field itself would not take."""
    schema["description"] = schema.get("description", "").partition("\n\n")[0]
    for field in schema.get("properties", {}).values():
        if field.get("default", ...) is None and {"type": "null"} not in field.get("anyOf", ()):
            del field["default"]


def _describe(found: Schema, models: Iterable[type]) -> None:
    for model in _parts(models):
        if model.__name__ in found:
            _comment(found[model.__name__], model)


def _parts(models: Iterable[type]) -> Iterable[type]:
    """The models, and those that their modules have for parts of them."""
    modules = {inspect.getmodule(base) for model in models for base in model.__mro__ if base.__module__ != "builtins"}
    return {
        part
        for module in modules
        for part in vars(module).values()
        if inspect.isclass(part) and hasattr(part, "model_fields") and part.__module__.startswith("pipeline.")
    }


def _comment(schema: Schema, model: type) -> None:
    """Put a class's comments into the schema of its fields."""
    for name, text in comments(model).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text


def comments(model: type) -> dict[str, str]:
    """What the source of a class says of its fields: behind a field, or in the lines before it."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except OSError:  # a plug-in without source
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    alone = {number for number in said if source.splitlines()[number - 1].lstrip().startswith("#")}
    tree = ast.parse(source).body[0]
    found = {}
    for field in tree.body if isinstance(tree, ast.ClassDef) else ():
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        first = field.lineno
        while first - 1 in alone:
            first -= 1
        before = " ".join(said[number] for number in range(first, field.lineno))
        if text := said.get(field.end_lineno or field.lineno, before):
            found[field.target.id] = text
    return found
