"""Every field of every job is explained, in tables by the paths that --set takes."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.jobs.config import KINDS
from retouch.jobs.reference import Field, fields, job_reference, markdown
from retouch.jobs.schema import job_schema

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


def test_no_field_of_any_kind_of_job_and_no_parameter_is_without_a_meaning() -> None:
    schema = job_schema()
    wordless = [
        f"{name}.{field.path}"
        for name in schema["$defs"]
        for field in fields(schema["$defs"][name], schema)
        if not field.meaning
    ]
    assert wordless == [], "put a docstring below the field"


def test_the_reference_has_every_kind_every_editor_and_the_paths_that_set_takes() -> None:
    text = job_reference()
    for kind in KINDS:
        assert f"## `kind: {kind}`" in text
    for editor in ("blended_diffusion", "diffusionclip", "paint_by_example"):
        assert f"### `editor.params` of `{editor}`" in text
    for path in (
        "ray.batch_size",
        "quality.thresholds.*.min",
        "targets.*.prompt",
        "metrics.*.options",
        "params.jitter",
    ):
        assert f"| `{path}` |" in text


def test_one_kind_alone() -> None:
    assert "kind: edit" not in job_reference("evaluate")
    with pytest.raises(ConfigError, match="no kind 'evalute'"):
        job_reference("evalute")


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
