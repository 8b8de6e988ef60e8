"""Validate custom resources as an API server would, but offline and stricter: an unknown field is an error.

In the order of an API server: nulls are dropped and defaults filled in, the structure is checked, entries of lists that
are maps or sets must differ, and last come the rules in CEL. What the operator checks beyond that is in ``rules``.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cel import evaluate

Schema = dict[str, Any]
FOLDER = Path(os.environ.get("RETOUCH_KUBERAY_CRDS") or Path(__file__).parents[3] / "shared" / "kuberay-crds")
WITHOUT = f"no KubeRay schemas in {FOLDER}; RETOUCH_KUBERAY_CRDS=FOLDER names one with the CRDs as JSON"

# JSON schema's words that a structural schema has, with the same meaning.
SHARED = {
    *("type", "required", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "uniqueItems", "multipleOf"),
}
METADATA: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
        "namespace": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "ownerReferences": {"type": "array"},
    },
}
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("int32")
def _is_int32(value: object) -> bool:
    return not isinstance(value, int) or -(2**31) <= value < 2**31


@FORMATS.checks("int64")
def _is_int64(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    return not isinstance(value, str) or re.fullmatch(pattern, value) is not None


@functools.cache
def schemas() -> dict[tuple[str, str], Schema]:
    """Structural schemas by (apiVersion, kind); skips the test where there are none."""
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        pytest.skip(WITHOUT)
    found = {}
    for file in files:
        spec = json.loads(file.read_text())["spec"]
        for version in spec["versions"]:
            if version["served"]:
                api = f"{spec['group']}/{version['name']}"
                found[api, spec["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    return found


@functools.cache
def _validator(api: str, kind: str) -> jsonschema.Draft202012Validator:
    schema = closed(schemas()[api, kind])
    schema["properties"]["metadata"] = METADATA
    schema["required"] = ["metadata", "spec"]
    return jsonschema.Draft202012Validator(schema, format_checker=FORMATS)


def faults(document: dict[str, Any]) -> list[str]:
    """Return the errors that an API server with KubeRay's CRDs would have about a document."""
    api, kind = str(document.get("apiVersion")), str(document.get("kind"))
    schema = schemas().get((api, kind))
    if schema is None:
        return [f"nobody serves {api} {kind}"]
    whole = copy.deepcopy(document)
    complete(schema, whole)
    errors = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in _validator(api, kind).iter_errors(whole)
    ]
    return [*errors, *_beyond(schema, whole, "")]


def complete(schema: Schema, value: Any) -> None:
    """Drop nulls where none may be, and fill in defaults."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value and value[name] is None and not inner.get("nullable"):
                del value[name]
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
        for name, member in value.items():
            complete(_of(schema, name), member)
    elif isinstance(value, list):
        for member in value:
            complete(schema.get("items", {}), member)


def closed(schema: Schema) -> Schema:
    """A structural schema as a JSON schema that takes no unknown field."""
    made: Schema = {word: copy.deepcopy(value) for word, value in schema.items() if word in SHARED}
    for word in ("anyOf", "allOf", "oneOf"):  # these only narrow; the fields stand outside
        if word in schema:
            made[word] = [{k: v for k, v in branch.items() if k in {*SHARED, "properties"}} for branch in schema[word]]
    if "properties" in schema:
        made["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        made["items"] = closed(schema["items"])
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def _of(schema: Schema, name: str) -> Schema:
    inner: Any = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
    return inner if isinstance(inner, dict) else {}


def _beyond(schema: Schema, value: Any, where: str) -> Iterator[str]:
    """What JSON schema has no word for: lists that are maps or sets, and rules in CEL."""
    if isinstance(value, list):
        yield from _twice(schema, value, where)
        for number, member in enumerate(value):
            yield from _beyond(schema.get("items", {}), member, f"{where}.{number}")
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _beyond(_of(schema, name), member, f"{where}.{name}")
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and evaluate(rule["rule"], {"self": value}) is not True:
            yield f"{where}: {rule.get('message') or rule['rule']}"


def _twice(schema: Schema, members: list[Any], where: str) -> Iterator[str]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "map":
        names = schema["x-kubernetes-list-map-keys"]
        defaults = {name: _of(schema["items"], name).get("default") for name in names}
        keys = [tuple(str(member.get(name, defaults[name])) for name in names) for member in members]
    elif kind == "set":
        keys = [(repr(member),) for member in members]
    else:
        return
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield f"{where}: twice {key}"
