"""Fields in addresses are filled in once, when the job is read; an unknown one is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.errors import ConfigError
from retouch.jobs.config import EditJob, load_job
from retouch.jobs.placeholders import fill_placeholders, resolve_date

DAY = "2026-11-25"


def test_every_address_takes_fields_and_nothing_else_does() -> None:
    weights = {"unet": ["s3://{env:BUCKET}/a.pt", "https://b/{name}.pt"], "clip": "c-{date}.pt"}
    data: dict[str, Any] = {
        "name": "night",
        "output": "s3://{env:BUCKET}/{name}/{date}",
        "manifest": ["{date}/a.parquet", "b.parquet"],
        "latents": "{name}",
        "results": "runs/{date}",
        "reference": {"fid": "{date}.safetensors"},
        "weights": "{env:BUCKET}",
        "editor": {"name": "{name}", "weights": weights, "params": {"prompt": "{date}"}},
        "metrics": ["{name}", {"name": "m", "weights": "{name}"}],
        "targets": [{"name": "t", "manifest": "{date}.parquet", "prompt": "{date}"}],
    }
    found = fill_placeholders(data, DAY, {"BUCKET": "b"})
    assert found == {
        "name": "night",
        "output": f"s3://b/night/{DAY}",
        "carry": "s3://b/night/*",  # what the job left on other dates
        "manifest": [f"{DAY}/a.parquet", "b.parquet"],
        "latents": "night",
        "results": f"runs/{DAY}",
        "reference": {"fid": f"{DAY}.safetensors"},
        "weights": "b",
        "editor": {
            "name": "{name}",
            "weights": {"unet": ["s3://b/a.pt", "https://b/night.pt"], "clip": f"c-{DAY}.pt"},
            "params": {"prompt": "{date}"},
        },
        "metrics": ["{name}", {"name": "m", "weights": "night"}],
        "targets": [{"name": "t", "manifest": f"{DAY}.parquet", "prompt": "{date}"}],
    }


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{dat}", "output: no field {dat}; did you mean date?; there are: {date}, {name}, {env:NAME}"),
        ("{colour}", "output: no field {colour}; there are: {date}, {name}, {env:NAME}"),
        ("{env}", "output: no field {env}"),
        ("{date:%Y}", "output: no field {date:%Y}"),
        ("{env:NONE}", "output: {env:NONE}: there is no variable NONE in the environment; set it"),
    ],
)
def test_what_is_no_field_is_refused_with_those_that_there_are(address: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        fill_placeholders({"name": "n", "output": address}, DAY, {})
    assert message in str(error.value)


def test_braces_that_are_no_field_stay() -> None:
    assert fill_placeholders({"manifest": "a/{b,c}/*.parquet", "name": 3, "output": "{name}"}, DAY, {}) == {
        "manifest": "a/{b,c}/*.parquet",
        "name": 3,
        "output": "{name}",
    }


def test_the_date_is_as_given_then_as_the_environment_says_then_todays() -> None:
    assert resolve_date(DAY, {"RETOUCH_DATE": "2026-01-01"}) == DAY
    assert resolve_date(None, {"RETOUCH_DATE": "2026-01-01"}) == "2026-01-01"
    before = dt.datetime.now(dt.UTC).date()
    assert before <= dt.date.fromisoformat(resolve_date(None, {})) <= dt.datetime.now(dt.UTC).date()


@pytest.mark.parametrize(
    ("given", "whose"), [("25.11.2026", "--date"), ("2026-02-30", "--date"), (None, "RETOUCH_DATE")]
)
def test_what_is_no_date_is_refused(given: str | None, whose: str) -> None:
    with pytest.raises(ConfigError, match=rf"{whose} is '.*', which is no date; give YYYY-MM-DD"):
        resolve_date(given, {"RETOUCH_DATE": "yesterday"})


def test_a_night_run_again_after_midnight_is_still_that_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = {"name": "e", "weights": "w"}
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump({"name": "n", "manifest": "{date}.parquet", "output": "o/{date}/", "editor": editor})
    )
    job = load_job(str(path), date=DAY)
    assert isinstance(job, EditJob)
    assert (job.manifest, job.output) == (f"{DAY}.parquet", f"o/{DAY}")
    monkeypatch.setenv("RETOUCH_DATE", "2026-11-24")
    assert load_job(str(path)).output == "o/2026-11-24"
    assert load_job(str(path), ["output=p/{date}"]).output == "p/2026-11-24"
