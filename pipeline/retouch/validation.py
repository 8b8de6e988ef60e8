"""One-line messages for invalid fields: path, value, allowed values, and the closest known name.

The allowed values are read from the model's JSON Schema, so messages and checks agree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

Schema = Mapping[str, Any]

MISSPELT: Final = 0.65  # difflib similarity above which a name counts as misspelt
_MAX_VALUE: Final = 40  # characters of a value that are shown
_MAX_NAMES: Final = 8  # fields of a mapping that are shown


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean timesteps?``, or an empty string if no known name is similar."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=MISSPELT)
    return f"; did you mean {found[0]}?" if found else ""


def in_one_line(error: ValidationError, data: Any, schema: Schema, under: str = "") -> str:
    """Return all problems of a validation error in one line, separated by semicolons.

    Args:
        error: raised by a model or dataclass.
        data: the value that was validated.
        schema: JSON Schema of the model, with references in ``$defs``.
        under: path of ``data`` in the job, such as ``editor.params``.
    """
    problems: dict[tuple[Any, ...], list[Any]] = {}
    for problem in error.errors():
        problems.setdefault(_path(problem, data), []).append(problem)
    # Every branch of a union reports errors; the branch with the deepest path is the one that was meant.
    deepest = [path for path in problems if not any(_below(other, path) for other in problems)]
    return "; ".join(_line(path, problems[path], schema, under) for path in deepest)


def unknown(path: str, known: Iterable[str]) -> str:
    """Return ``editor.steps: unknown key; did you mean ...?``, or with all known names if none is similar."""
    names = list(known)
    choices = f"; use one of: {', '.join(names)}" if names else ""
    return f"{path}: unknown key{nearest(path.rpartition('.')[2], names) or choices}"


def _path(problem: Any, data: Any) -> tuple[Any, ...]:
    """Return a problem's path in the data, without the names of union branches that pydantic inserts."""
    path: list[Any] = []
    for part in problem["loc"]:
        is_list = isinstance(data, Sequence) and not isinstance(data, str)
        if (part in data) if isinstance(data, Mapping) else is_list and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (problem["type"] == "missing" and part == problem["loc"][-1]):
            continue
        path.append(part)
    return tuple(path)


def _below(path: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(path) > len(other) > 0 and path[: len(other)] == other


def _line(path: tuple[Any, ...], problems: Sequence[Any], schema: Schema, under: str) -> str:
    where = ".".join(str(part) for part in ((under, *path) if under else path)) or "job"
    problem = problems[0]
    if problem["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return unknown(where, _fields(_at(schema, path[:-1], schema), schema))
    if raised := [p["msg"].removeprefix("Value error, ") for p in problems if p["type"] == "value_error"]:
        return f"{where}: {raised[0]}"
    node = _at(schema, path, schema)
    if problem["loc"][-1:] == ("[key]",):  # the key of a mapping, not its value
        return f"{where}: {problem['msg']}"
    allowed = ", or ".join(dict.fromkeys(_allowed(node, schema))) if node else problem["msg"]
    if problem["type"] in {"missing", "missing_argument"}:
        return f"{where}: missing; give {allowed}"
    got = repr(problems[-1]["input"] if len(problems) == 1 else problem["input"])
    got = got if len(got) <= _MAX_VALUE else f"{got[:_MAX_VALUE]}..."
    names = [option for option in _options(node, schema) if isinstance(option, str)] if node else []
    near = nearest(problem["input"], names) if isinstance(problem["input"], str) else ""
    return f"{where}: got {got}; allowed: {allowed}{near}"


def _resolved(node: Schema, root: Schema) -> Schema:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _branches(node: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the node, or its alternatives."""
    node = _resolved(node, root)
    if "anyOf" not in node:
        yield node
    for branch in node.get("anyOf", ()):
        yield from _branches(branch, root)


def _at(node: Schema, path: Sequence[Any], root: Schema) -> Schema | None:
    """Return the part of a schema that describes a path; None if the schema does not restrict it."""
    if not path:
        return _resolved(node, root)
    for branch in _branches(node, root):
        inner = branch.get("items") if isinstance(path[0], int) else branch.get("properties", {}).get(path[0])
        if inner is None and not isinstance(path[0], int):
            inner = branch.get("additionalProperties") or None
        if isinstance(inner, Mapping) and (found := _at(inner, path[1:], root)) is not None:
            return found
    return None


def _fields(node: Schema | None, root: Schema) -> list[str]:
    return [name for branch in _branches(node or {}, root) for name in branch.get("properties", ())]


def _options(node: Schema, root: Schema) -> Iterator[Any]:
    for branch in _branches(node, root):
        yield from branch.get("enum", [branch["const"]] if "const" in branch else ())


def _allowed(node: Schema, root: Schema) -> Iterator[str]:
    """Yield in words what each alternative accepts; all constants together at the end."""
    for branch in _branches(node, root):
        if "enum" not in branch and "const" not in branch and branch.get("type") != "null":
            yield _kind(branch, root)
    if options := [str(option) for option in _options(node, root) if option is not None]:
        yield ", ".join(options)


def _kind(node: Schema, root: Schema) -> str:
    match node.get("type"):
        case "integer":
            return f"a whole number{_bounds(node)}"
        case "number":
            return f"a number{_bounds(node)}"
        case "string":
            return f"text that matches {node['pattern']}" if "pattern" in node else "text"
        case "boolean":
            return "true or false"
        case "array":
            least = f" of at least {node['minItems']}" if node.get("minItems") else ""
            return f"a list{least}"
        case "object" if "properties" in node:
            names = list(node["properties"])
            return f"a mapping of {', '.join(names[:_MAX_NAMES])}{', ...' if len(names) > _MAX_NAMES else ''}"
        case "object":
            return "a mapping"
    return "anything"


def _bounds(node: Schema) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    above = node.get("exclusiveMinimum")
    parts = [
        f" from {least}" if least is not None else f" above {above}" if above is not None else "",
        f" to {most}" if most is not None else "",
    ]
    return "".join(parts)
