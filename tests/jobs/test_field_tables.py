"""A schema becomes a table that says what may stand where, by the paths that --set takes."""

from __future__ import annotations

from typing import Any

from retouch.jobs.field_tables import Field, fields, markdown

ROOT: dict[str, Any] = {
    "properties": {
        "name": {"type": "string"},
        "ray": {"$ref": "#/$defs/Ray", "default": {"actors": "auto"}},
        "metrics": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Metric"}}, {"type": "null"}], "default": []},
        "bounds": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/Metric"}]},
        },
        "format": {"enum": ["png", "jpeg"], "default": "png"},
        "sink": {"anyOf": [{"enum": ["files"]}, {"pattern": "^[^:]+:[^:]+$"}], "default": "files"},
        "kind": {"const": "edit", "default": "edit"},
        "later": {"type": "integer"},
        "none": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "description": "a | b, ``c``"},
    },
    "required": ["name"],
    "$defs": {
        "Ray": {
            "properties": {
                "actors": {"anyOf": [{"minimum": 1, "type": "integer"}, {"const": "auto"}], "default": "auto"},
                "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5},
            }
        },
        "Metric": {"type": "object", "properties": {"of": {"type": "boolean", "default": False}}},
    },
}


def test_fields_of_fields_of_lists_and_of_mappings_have_their_paths() -> None:
    found = {field.path: field for field in fields(ROOT, ROOT)}
    assert [*found] == [
        "name",
        "ray",
        "ray.actors",
        "ray.share",
        "metrics",
        "metrics.*.of",
        "bounds",
        "bounds.*.of",
        "format",
        "sink",
        "kind",
        "later",
        "none",
    ]
    assert found["name"] == Field("name", "text", "required", "")
    assert found["ray.actors"] == Field("ray.actors", "integer, at least 1, or `auto`", '"auto"', "")
    assert found["ray.share"].type == "number, above 0 and at most 1"
    assert found["ray"].default == ""
    assert found["metrics"].type == "list of mapping"
    assert found["bounds"].type == "mapping to number, or mapping"
    assert found["format"].type == "`png`, `jpeg`"
    assert found["sink"].type == "`files`, or `package.module:Class`"
    assert (found["later"].default, found["none"].default) == ("", "none")


def test_a_table_keeps_its_shape_whatever_a_meaning_holds() -> None:
    lines = markdown(fields(ROOT, ROOT)).splitlines()
    assert len(lines) == 13 + 2
    assert lines[2] == "| `name` | text | required |  |"
    assert lines[-1] == "| `none` | text | `none` | a \\| b, `c` |"
