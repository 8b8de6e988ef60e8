"""The command line wins over the file; a wrong override is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from retouch.errors import ConfigError
from retouch.jobs.config import EditJob, load_job
from retouch.jobs.overrides import apply_overrides

from tests.helpers.datasets import painter_job


def test_overriding_leaves_the_data_it_was_given_alone() -> None:
    data = {"ray": {"actors": 1}}
    assert apply_overrides(data, ["ray.actors=2"]) == {"ray": {"actors": 2}}
    assert data == {"ray": {"actors": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set 'a' is not of the form a.b=value"),
        ("a..b=1", "--set 'a..b=1' is not of the form a.b=value"),
        ("name.x=1", "--set 'name.x=1': 'name' holds a value, not a mapping"),
        ("seed=[1", "--set 'seed=[1': the value is not YAML"),
    ],
)
def test_an_override_without_a_place_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_overrides({"name": "n"}, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(painter_job(tmp_path, "m.parquet", seed=1).model_dump(mode="json")))
    loaded = load_job(str(path), ["candidates=3", "latents=null"])
    assert isinstance(loaded, EditJob)
    assert (loaded.seed, loaded.candidates, loaded.latents) == (1, 3, None)


def test_a_misspelt_path_is_met_with_the_field_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(painter_job(tmp_path, "m.parquet").model_dump(mode="json")))
    with pytest.raises(ConfigError, match=r"ray\.actor: unknown key; did you mean actors\?"):
        load_job(str(path), ["ray.actor=2"])
