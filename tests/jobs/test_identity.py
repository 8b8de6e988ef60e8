"""A run's record gives back what decided its pixels, whatever may have changed in the job since."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from retouch.errors import OutputError
from retouch.jobs.config import EditJob, parse_job
from retouch.jobs.identity import job_identity, pixel_identity, recorded_identity
from retouch.manifests.fingerprints import with_fingerprints

DATA: dict[str, Any] = {
    "name": "n",
    "manifest": "m.parquet",
    "output": "o",
    "editor": {"name": "blended_diffusion", "weights": "w", "params": {"timesteps": 25}},
    "quality": {"mode": "retry", "thresholds": {"clip_score": 25}},
    "ray": {"batch_size": 4},
}
WEIGHTS = {"unet": "ab"}


def edit_job(**changes: Any) -> EditJob:
    job = parse_job({**DATA, **changes}, "job")
    assert isinstance(job, EditJob)
    return job


def test_a_record_gives_back_the_identity_of_the_pixels() -> None:
    job = edit_job()
    # the recorded job is the last one that ran on the output, the identity is that of all of them
    record = {
        "job": edit_job(seed=7, ray={"batch_size": 9}).model_dump(mode="json"),
        "decides": job_identity(job, WEIGHTS),
        "editor_version": "2",
    }
    assert recorded_identity(record) == pixel_identity(job, "2", WEIGHTS)


def test_where_and_how_a_job_runs_is_no_part_of_its_identity() -> None:
    here = edit_job()
    there = edit_job(
        output="p",
        latents="l",
        max_cost=1,
        quality={**DATA["quality"], "rounds": 9},
        ray={"batch_size": 4, "actors": 2},
    )
    assert job_identity(here, WEIGHTS) == job_identity(there, WEIGHTS)
    assert pixel_identity(here, "2", WEIGHTS) == pixel_identity(there, "2", WEIGHTS)
    assert pixel_identity(edit_job(ray={"batch_size": 5}), "2", WEIGHTS) != pixel_identity(here, "2", WEIGHTS)


def test_the_address_of_a_server_is_no_part_of_the_identity_and_its_model_is() -> None:
    def served(**params: Any) -> EditJob:
        given = {"url": "http://a/v1", "model": "m", "concurrency": 4, **params}
        return edit_job(editor={"name": "endpoint", "weights": {}, "params": given})

    here, moved, other = served(), served(url="http://b/v1", concurrency=1), served(model="n")
    assert job_identity(here, {}) == job_identity(moved, {}) != job_identity(other, {})
    assert pixel_identity(here, "1", {}) == pixel_identity(moved, "1", {}) != pixel_identity(other, "1", {})
    record = {"job": here.model_dump(mode="json"), "decides": job_identity(here, {}), "editor_version": "1"}
    assert recorded_identity(record) == pixel_identity(moved, "1", {})


def test_the_record_of_an_editor_that_is_not_installed_can_be_read() -> None:
    job = edit_job(editor={"name": "of_a_colleague", "weights": "w", "params": {"url": "u"}})
    record = {"job": job.model_dump(mode="json"), "decides": job_identity(job, {}), "editor_version": "1"}
    assert recorded_identity(record)["params"] == {"url": "u"}


def test_a_record_of_another_kind_of_job_is_refused() -> None:
    evaluate = {"kind": "evaluate", "name": "n", "results": "r", "output": "o", "metrics": ["fid"]}
    with pytest.raises(OutputError, match=r"run\.json is of a job of kind evaluate"):
        recorded_identity({"job": evaluate, "decides": {}})


def test_fields_that_came_later_change_no_identity_until_they_are_set() -> None:
    """The digests are those of the version before ``mask.grow``, ``mask.feather``, ``mask.context``, ``align`` and
    ``output_size``."""

    def digest(identity: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    plain = edit_job()
    assert digest(pixel_identity(plain, "2", WEIGHTS)).startswith("0cf8228ea8fbf165")
    assert digest(job_identity(plain, WEIGHTS)).startswith("6882ae310e240a81")
    set_fields: list[dict[str, Any]] = [{"mask": {name: 1}} for name in ("grow", "feather", "context")]
    for changes in [*set_fields, {"align": True}, {"output_size": "network"}]:
        job = edit_job(**changes)
        assert pixel_identity(job, "2", WEIGHTS) != pixel_identity(plain, "2", WEIGHTS)
        assert job_identity(job, WEIGHTS) != job_identity(plain, WEIGHTS)
        record = {
            "job": job.model_dump(mode="json"),
            "decides": job_identity(job, WEIGHTS),
            "editor_version": "2",
        }
        assert recorded_identity(record) == pixel_identity(job, "2", WEIGHTS)


def test_fingerprints_are_those_of_outputs_that_older_versions_wrote() -> None:
    row = pa.table({"key": ["a"], "image": [b"x"], "prompt": ["p"]})
    # of b1cb41b, before jobs had a canvas
    pinned = "e0069b7092d0660e5dd4de2dd03592516d1abf4691844771ab6d18c71e98273c"
    assert with_fingerprints(row, pixel_identity(edit_job(), "2", WEIGHTS))["fingerprint"].to_pylist() == [pinned]
    assert "canvas" not in job_identity(edit_job(), WEIGHTS)


def test_every_part_of_a_canvas_decides_pixels() -> None:
    variants: list[dict[str, Any]] = [
        {"left": 2},
        {"right": 2},
        {"left": 1},
        {"left": 1.0},
        {"left": 2, "prompt_left": "sea"},
        {"left": 2, "steps": 2},
    ]
    jobs = [edit_job(), *(edit_job(canvas=canvas) for canvas in variants)]
    for identify in (lambda job: pixel_identity(job, "2", WEIGHTS), lambda job: job_identity(job, WEIGHTS)):
        assert len({json.dumps(identify(job)) for job in jobs}) == len(jobs)
    record = {"job": jobs[-1].model_dump(mode="json"), "decides": job_identity(jobs[-1], WEIGHTS)}
    assert recorded_identity({**record, "editor_version": "2"}) == pixel_identity(jobs[-1], "2", WEIGHTS)
