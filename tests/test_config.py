"""A job file says what it means, or one line says what is wrong with it."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import EditJob, load_job
from pipeline.errors import ConfigError

JOB = {
    "kind": "edit",
    "name": "n",
    "manifest": "m.parquet",
    "output": "runs/n",
    "editor": {"name": "blended_diffusion", "weights": "embedded:shapes", "params": {"timesteps": 50}},
}


def written(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**JOB, **changes}))
    return str(path)


def test_a_short_job_gets_the_documented_defaults(tmp_path: Path) -> None:
    job = load_job(written(tmp_path))
    assert (job.seed, job.candidates, job.keep, job.image_format, job.max_failure_rate) == (0, 1, 1, "png", 0.05)
    assert (job.ray.actors, job.ray.gpus_per_actor, job.ray.batch_size) == ("auto", "auto", 8)


def test_metrics_and_thresholds_have_a_short_form(tmp_path: Path) -> None:
    quality = {"mode": "reject", "thresholds": {"clip_score": 25, "background_l1": {"max": 3}}}
    job = load_job(written(tmp_path, metrics=["clip_score", {"name": "background_l1"}], quality=quality))
    assert [metric.name for metric in job.metrics] == ["clip_score", "background_l1"]
    assert job.quality.thresholds["clip_score"].min == 25
    assert job.quality.thresholds["background_l1"].max == 3


def test_set_overrides_nested_fields_with_yaml_values(tmp_path: Path) -> None:
    job = load_job(written(tmp_path), ["editor.params.timesteps=25", "ray.actors=2", "keep=1", "seed=7"])
    assert job.editor.params == {"timesteps": 25}
    assert (job.ray.actors, job.seed) == (2, 7)


def test_the_date_is_filled_into_the_output(tmp_path: Path) -> None:
    assert "{date}" not in load_job(written(tmp_path, output="s3://b/p/{date}")).output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"editor": {"name": "x", "weights": "w", "steps": 3}}, "editor.steps: unknown key"),
        ({"candidates": 1, "keep": 2}, "keep is 2 but candidates is 1"),
        ({"ray": {"actors": 0}}, "ray.actors"),
        ({"ray": {"batch_size": "many"}}, "ray.batch_size"),
        ({"image_format": "gif"}, "image_format"),
        ({"kind": "paint"}, "kind is 'paint'"),
        ({"name": "a b"}, "name"),
    ],
)
def test_a_wrong_job_is_refused_in_one_line_that_names_the_field(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(written(tmp_path, **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["editor", "=3", "editor..x=1", "name.x=1", "seed=[1"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_job(written(tmp_path), [override])


def test_a_missing_job_file_and_one_that_is_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no job file"):
        load_job(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_job(str(broken))
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="not a mapping"):
        load_job(str(broken))


@pytest.mark.parametrize("path", sorted(Path("jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_job_that_ships_loads(path: Path) -> None:
    assert isinstance(load_job(str(path)), EditJob)
