"""Every field of every job is explained."""

from __future__ import annotations

import pytest
from retouch.errors import ConfigError
from retouch.jobs.config import KINDS
from retouch.jobs.field_tables import fields
from retouch.jobs.job_reference import job_reference
from retouch.jobs.schema import job_schema


def test_no_field_of_any_kind_of_job_and_no_parameter_is_without_a_meaning() -> None:
    schema = job_schema()
    wordless = [
        f"{name}.{field.path}"
        for name in schema["$defs"]
        for field in fields(schema["$defs"][name], schema)
        if not field.meaning and field.path != "kind"
    ]
    assert wordless == [], "put a comment behind the field, or in the line before it"


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
