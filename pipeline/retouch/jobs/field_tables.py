"""A JSON Schema as a table of fields for people: path, type, default, meaning. Knows no job and no editor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

REQUIRED: Final = "required"
ANY: Final = "*"  # in a path: any entry of a list, any name of a mapping
_WORDS: Final = {"string": "text", "boolean": "true, false", "object": "mapping", "null": "nothing"}


@dataclass(frozen=True)
class Field:
    """One field, as ``--set`` and a table name it."""

    path: str  # ray.batch_size; metrics.*.name
    type: str  # in words
    default: str  # as YAML; "required"; empty where it depends on another field
    meaning: str


def fields(node: Schema, root: Schema) -> list[Field]:
    """The fields of an object and of all objects below it, each before its own.

    Args:
        node: its schema.
        root: the schema whose ``$defs`` references are meant.
    """
    return list(_fields(node, root, ""))


def markdown(found: Iterable[Field]) -> str:
    """A table in Markdown."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in found:
        default = f"`{field.default}`" if field.default and field.default != REQUIRED else field.default
        lines.append(row((f"`{field.path}`", field.type, default, field.meaning)))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('``', '`') for cell in cells)} |"


def _fields(node: Schema, root: Schema, above: str) -> Iterator[Field]:
    node = _resolved(node, root)
    for name, field in node.get("properties", {}).items():
        path = f"{above}{name}"
        yield Field(path, _type(field, root), _default(name, field, node, root), field.get("description", ""))
        for inner, below in _objects(field, root, path):
            yield from _fields(inner, root, f"{below}.")


def _objects(node: Schema, root: Schema, path: str) -> Iterator[tuple[Schema, str]]:
    """What a field holds that has fields of its own, and its path."""
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
        return ""  # those of its fields
    if "default" not in field:
        return ""
    return "none" if field["default"] is None else json.dumps(field["default"])


def _resolved(node: Schema, root: Schema) -> Schema:
    """What a reference stands for; what stands beside it (a default, a description) is the field's own."""
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
        # A pattern beside names is that of a class of one's own.
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        words = ["`package.module:Class`" if set(branch) == {"pattern"} else _type(branch, root) for branch in branches]
        return ", or ".join(dict.fromkeys(words))
    if node.get("type") == "array":
        return f"list of {_type(node['items'], root)}" if "items" in node else "list"
    if node.get("type") == "object" and isinstance(node.get("additionalProperties"), Mapping):
        return f"mapping to {_type(node['additionalProperties'], root)}"
    return f"{_WORDS.get(node.get('type', ''), node.get('type', 'anything'))}{_bounds(node)}"


def _bounds(node: Schema) -> str:
    """``, 1 to 255``, ``, above 0``."""
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
    said = " and ".join(part for part in parts if part)
    return f", {said}" if said else ""
