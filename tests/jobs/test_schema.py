"""The schema says what the models say: shipped jobs pass, broken ones do not, and the shipped file has not drifted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from retouch.errors import ConfigError
from retouch.jobs.config import KINDS
from retouch.jobs.schema import job_schema

SHIPPED = Path("jobs/schema.json")
JOBS = sorted(Path("jobs").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return job_schema()


def faults(schema: dict[str, Any], job: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(job)]


def shipped(name: str) -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load(Path("jobs", name).read_text())
    return job


def test_the_shipped_schema_is_what_the_command_prints(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert json.loads(SHIPPED.read_text()) == schema, "run: .venv/bin/retouch schema > jobs/schema.json"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_shipped_job_passes_and_names_the_schema_for_editors(path: Path, schema: dict[str, Any]) -> None:
    job = yaml.safe_load(path.read_text())
    assert faults(schema, job) == []
    assert faults(job_schema(job["kind"]), job) == []
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"


def test_there_is_a_shipped_job_of_every_kind() -> None:
    assert {yaml.safe_load(path.read_text())["kind"] for path in JOBS} == set(KINDS)


@pytest.mark.parametrize(
    ("job", "changes"),
    [
        ("quickstart.yaml", {"colour": "red"}),
        ("quickstart.yaml", {"kind": "edt"}),
        ("quickstart.yaml", {"metrics": ["clip_scor"]}),
        ("quickstart.yaml", {"metrics": ["fid"]}),  # of a set, not of a row
        ("quickstart.yaml", {"keep": 0}),
        ("quickstart.yaml", {"ray": {"actors": "many"}}),
        ("quickstart.yaml", {"ray": {"actors": 0}}),
        ("quickstart.yaml", {"sink": "tars"}),
        ("quickstart.yaml", {"quality": {"thresholds": {"clip_score": {"mn": 1}}}}),
        ("quickstart.yaml", {"editor": {"name": "blended_diffusion", "weights": "w", "params": {"timestep": 3}}}),
        ("quickstart.yaml", {"editor": {"name": "diffusionclip", "weights": "w", "params": {"timesteps": 3}}}),
        ("quickstart.yaml", {"editor": {"name": "blended", "weights": "w"}}),
        ("quickstart.yaml", {"editor": {"name": "diffusionclip", "weights": {"unet": 3}}}),
        ("finetune.yaml", {"targets": []}),
        ("finetune.yaml", {"params": {"steps": 3}}),
        ("train_exemplar.yaml", {"params": {"step": 3}}),
        ("evaluate.yaml", {"row_metrics": ["fid"]}),
        ("evaluate.yaml", {"editor": {}}),
    ],
)
def test_a_broken_job_is_refused(job: str, changes: dict[str, Any], schema: dict[str, Any]) -> None:
    assert faults(schema, {**shipped(job), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": ["clip_score", "my.module:Metric", {"name": "background_l1", "options": {"a": 1}}]},
        {"editor": {"name": "my.module:Editor", "weights": {"unet": ["s3://a", "https://b"]}, "params": {"own": 1}}},
        {"quality": {"mode": "retry", "thresholds": {"clip_score": 25, "background_l1": {"max": 3}}}},
        {"manifest": ["a.parquet", "s3://b/*.parquet"], "latents": None},
    ],
)
def test_short_forms_and_plug_ins_of_ones_own_pass(changes: dict[str, Any], schema: dict[str, Any]) -> None:
    job = {**shipped("quickstart.yaml"), **changes}
    del job["kind"]  # an edit by default
    assert faults(schema, job) == []


def test_the_docstring_below_a_field_is_its_description_in_one_line(schema: dict[str, Any]) -> None:
    fields = schema["$defs"]["params.diffusionclip"]["properties"]
    assert fields["purify_steps"]["description"] == "DDIM steps per round, as published."
    assert "better where n does not divide it" in fields["t_0"]["description"]  # in the docstring's second line
    assert schema["$defs"]["RaySpec"]["properties"]["rows_per_block"]["description"].startswith(
        "Rows that are committed"
    )
    assert "Raises" not in json.dumps(schema)


def test_a_kind_that_there_is_not_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"no kind 'evalute'; did you mean evaluate\?; there are: edit, "):
        job_schema("evalute")
