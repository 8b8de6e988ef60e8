"""Tables of all job fields and editor parameters, made from their JSON Schema, as Markdown for ``jobs/README.md``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retouch.jobs.config import KINDS
from retouch.jobs.schema import job_schema

Schema = Mapping[str, Any]

REQUIRED: Final = "required"
ANY: Final = "*"  # in a path: any entry of a list, any name of a mapping
_WORDS: Final = {"string": "text", "boolean": "true, false", "object": "mapping", "null": "nothing"}
_PARAMS: Final = "params."  # before an editor's name in the schema's $defs


@dataclass(frozen=True)
class Field:
    """One field: a row of a table."""

    path: str  # as --set takes it: ray.batch_size; metrics.*.name
    type: str  # in words
    default: str  # as YAML; "required"; empty where it depends on another field
    meaning: str


def job_reference(kind: str | None = None) -> str:
    """Return the tables of every kind of job, and of the params of every installed editor.

    Args:
        kind: of this kind of job only; else of all.

    Raises:
        ConfigError: there is no such kind.
        PluginError: an installed editor does not import.
    """
    schema = job_schema(kind)
    parts = [part for name in KINDS if kind in (None, name) for part in _kind_section(name, schema)]
    if kind in (None, "edit"):
        names = [name for name in schema["$defs"] if name.startswith(_PARAMS)]
        parts += [part for name in names for part in _params_section(name, schema)]
    return "\n\n".join(parts) + "\n"


def fields(node: Schema, root: Schema) -> list[Field]:
    """List the fields of an object and of all objects below it, each before its own.

    Args:
        node: schema of the object.
        root: the schema that holds the ``$defs`` of references.
    """
    return list(_fields(node, root, ""))


def markdown(found: Iterable[Field]) -> str:
    """Return a Markdown table of fields."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in found:
        default = f"`{field.default}`" if field.default and field.default != REQUIRED else field.default
        lines.append(row((f"`{field.path}`", field.type, default, field.meaning)))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('``', '`') for cell in cells)} |"


def _kind_section(name: str, schema: Schema) -> Iterator[str]:
    part = schema["$defs"][KINDS[name].__name__]
    about = part["description"].partition("``: ")[2]
    yield f"## `kind: {name}`"
    yield f"{about[:1].upper()}{about[1:]}"
    yield markdown(fields(part, schema))


def _params_section(name: str, schema: Schema) -> Iterator[str]:
    part = schema["$defs"][name]
    yield f"### `editor.params` of `{name.removeprefix(_PARAMS)}`"
    yield part["description"]
    yield markdown(fields(part, schema))


def _fields(node: Schema, root: Schema, prefix: str) -> Iterator[Field]:
    node = _resolved(node, root)
    for name, field in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield Field(path, _type(field, root), _default(name, field, node, root), field.get("description", ""))
        for inner, inner_path in _objects(field, root, path):
            yield from _fields(inner, root, f"{inner_path}.")


def _objects(node: Schema, root: Schema, path: str) -> Iterator[tuple[Schema, str]]:
    """Yield the objects that a field may hold, with their paths."""
    node = _resolved(node, root)
    if "properties" in node:
        yield node, path
    for branch in node.get("anyOf", ()):
        yield from _objects(branch, root, path)
    for inner in (node.get("items"), node.get("additionalProperties")):
        if isinstance(inner, Mapping):
            yield from _objects(inner, root, f"{path}.{ANY}")


def _default(name: str, field: Schema, node: Schema, root: Schema) -> str:
    if name in node.get("required", ()):
        return REQUIRED
    if "properties" in _resolved(field, root):
        return ""  # its fields have their own
    if "default" not in field:
        return ""
    return "none" if field["default"] is None else json.dumps(field["default"])


def _resolved(node: Schema, root: Schema) -> Schema:
    """Return the schema that a reference names; a default or description next to the reference is the field's own."""
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _type(node: Schema, root: Schema) -> str:
    node = _resolved(node, root)
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        # A pattern next to names is that of a plug-in class.
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        words = ["`package.module:Class`" if set(branch) == {"pattern"} else _type(branch, root) for branch in branches]
        return ", or ".join(dict.fromkeys(words))
    if node.get("type") == "array":
        return f"list of {_type(node['items'], root)}" if "items" in node else "list"
    if node.get("type") == "object" and isinstance(node.get("additionalProperties"), Mapping):
        return f"mapping to {_type(node['additionalProperties'], root)}"
    return f"{_WORDS.get(node.get('type', ''), node.get('type', 'anything'))}{_bounds(node)}"


def _bounds(node: Schema) -> str:
    """Return the bounds of a number in words: ``, 1 to 255``, ``, above 0``."""
    least, most = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f", {least} to {most}"
    parts = [
        f"at least {least}" if least is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {most}" if most is not None else "",
        f"under {below}" if below is not None else "",
    ]
    bounds = " and ".join(part for part in parts if part)
    return f", {bounds}" if bounds else ""
