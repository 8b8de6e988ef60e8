"""Every address of every kind of job is found, and nothing that is none."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from retouch.jobs.addresses import Address, addresses, replaced
from retouch.jobs.config import parse_job

from tests.helpers.jobs_on_s3 import ALL

JOB: dict[str, Any] = {
    "output": "out",
    "manifest": ["a.parquet", "b.parquet"],
    "latents": "latents",
    "carry": "earlier/*",
    "editor": {"name": "x", "weights": {"unet": ["u.pt", "v.pt"], "clip": "c.pt"}, "params": {"weights": "w"}},
    "metrics": ["m", {"name": "n", "weights": "n.pt", "options": {"manifest": "o"}}],
    "row_metrics": [{"name": "r", "weights": {"clip": "r.pt"}}],
    "targets": [{"name": "t", "manifest": "t.parquet", "params": {"manifest": "p"}}],
    "results": "results",
    "reference": {"fid": "f.safetensors"},
    "weights": "w.pt",
}
FOUND = {
    "output": "out",
    "manifest.0": "a.parquet",
    "manifest.1": "b.parquet",
    "latents": "latents",
    "carry": "earlier/*",
    "editor.weights.unet.0": "u.pt",
    "editor.weights.unet.1": "v.pt",
    "editor.weights.clip": "c.pt",
    "metrics.1.weights": "n.pt",
    "row_metrics.0.weights.clip": "r.pt",
    "targets.0.manifest": "t.parquet",
    "results": "results",
    "reference.fid": "f.safetensors",
    "weights": "w.pt",
}


def test_each_address_is_found_with_its_field_and_params_and_options_are_left_alone() -> None:
    assert {found.field: found.text for found in addresses(JOB)} == FOUND


def test_output_and_latents_are_written_and_the_others_are_read() -> None:
    assert {found.field for found in addresses(JOB) if found.is_written} == {"output", "latents"}


@pytest.mark.parametrize("carry", ["auto", "none"])
def test_a_carry_that_is_a_word_is_no_address(carry: str) -> None:
    assert addresses({"carry": carry}) == []
    assert addresses({"carry": "auto/*"}) == [Address("carry", "auto/*")]


def test_each_address_can_be_replaced_and_what_is_no_text_stays() -> None:
    changed = replaced({**JOB, "weights": 7}, lambda field, text: f"{field}={text}")
    assert {found.field: found.text for found in addresses(changed)} == {
        field: f"{field}={text}" for field, text in FOUND.items() if field != "weights"
    }
    assert changed["weights"] == 7
    assert changed["editor"]["params"] == JOB["editor"]["params"]
    assert JOB["output"] == "out"


@pytest.mark.parametrize("kind", ALL)
def test_every_bucket_that_a_job_names_is_found(kind: str) -> None:
    data = parse_job(yaml.safe_load(ALL[kind]), kind).model_dump(mode="json")
    assert len([one for one in addresses(data) if one.text.startswith("s3://")]) == ALL[kind].count("s3://")
