"""The command line wins over the environment, and the environment over the file; wrong ones are said in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from retouch.errors import ConfigError
from retouch.execution.edit import run
from retouch.jobs.config import EditJob, load_job
from retouch.jobs.overrides import environment, from_environment, overridden
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset


def test_a_variable_sets_a_field_and_keeps_case_and_list_places() -> None:
    variables = environment(
        {"RETOUCH_JOB__editor__params__timesteps": "25", "RETOUCH_JOB__targets__0__name": "B", "X": "1"}
    )
    assert list(variables) == ["RETOUCH_JOB__editor__params__timesteps", "RETOUCH_JOB__targets__0__name"]
    data = from_environment({"editor": {"params": {"timesteps": 50, "eta": 0}}, "targets": [{"name": "a"}]}, variables)
    assert data == {"editor": {"params": {"timesteps": 25, "eta": 0}}, "targets": [{"name": "B"}]}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "RETOUCH_JOB__",
            "1",
            "the variable RETOUCH_JOB__ names no field; write RETOUCH_JOB__editor__params__timesteps",
        ),
        ("RETOUCH_JOB__a____b", "1", "names no field"),
        ("RETOUCH_JOB__name__x", "1", "the variable RETOUCH_JOB__name__x: 'name' holds a value, not a mapping"),
        ("RETOUCH_JOB__seed", "[1", "the variable RETOUCH_JOB__seed: the value is not YAML"),
    ],
)
def test_a_variable_that_names_no_place_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_environment({"name": "n"}, {name: value})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_overriding_leaves_the_data_it_was_given_alone() -> None:
    data = {"ray": {"actors": 1}}
    assert overridden(data, ["ray.actors=2"]) == {"ray": {"actors": 2}}
    assert data == {"ray": {"actors": 1}}


def test_set_wins_over_the_environment_which_wins_over_the_file_and_the_run_records_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 1), seed=1, candidates=1)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    monkeypatch.setenv("RETOUCH_JOB__seed", "2")
    monkeypatch.setenv("RETOUCH_JOB__candidates", "2")
    monkeypatch.setenv("RETOUCH_JOB__latents", "https://me:planted-password@host/l")
    loaded = load_job(str(path), ["candidates=3", "latents=null"])
    assert isinstance(loaded, EditJob)
    assert (loaded.seed, loaded.candidates) == (2, 3)
    said = capsys.readouterr().err
    assert said.startswith("from the environment: RETOUCH_JOB__candidates=2, ")
    assert "planted" not in said
    assert said.count("\n") == 1
    run(loaded, executor="local", console=Console(file=io.StringIO()))
    record = (tmp_path / "out" / "run.json").read_text()
    assert json.loads(record)["environment"]["RETOUCH_JOB__seed"] == "2"
    assert "planted" not in record


def test_a_misspelt_path_is_met_with_the_field_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(painter_job(tmp_path, "m.parquet").model_dump(mode="json")))
    with pytest.raises(ConfigError, match=r"ray\.actor: unknown key; did you mean actors\?"):
        load_job(str(path), ["ray.actor=2"])
    monkeypatch.setenv("RETOUCH_JOB__ray__batchsize", "2")
    with pytest.raises(ConfigError, match=r"ray\.batchsize: unknown key; did you mean batch_size\?"):
        load_job(str(path))
