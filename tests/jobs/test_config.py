"""A job file says what it means, or one line says what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.errors import ConfigError
from retouch.jobs.config import KINDS, FinetuneJob, load_job

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
    ("changes", "message"),
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
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(written(tmp_path, **changes))
    assert message in str(error.value)
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
    kind = yaml.safe_load(path.read_text()).get("kind", "edit")
    assert type(load_job(str(path))) is KINDS[kind]


FINETUNE: dict[str, Any] = {
    "kind": "finetune",
    "name": "n",
    "manifest": "m.parquet",
    "output": "runs/n/",
    "weights": "embedded:shapes",
    "targets": [{"name": "blue", "source_prompt": "red", "prompt": "blue"}, {"name": "own"}],
}


def finetuning(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**FINETUNE, **changes}))
    return str(path)


def test_a_short_fine_tuning_gets_the_documented_defaults(tmp_path: Path) -> None:
    job = load_job(finetuning(tmp_path))
    assert isinstance(job, FinetuneJob)
    assert (job.output, job.seed, job.fit, job.params) == ("runs/n", 0, "auto", {})
    assert (job.ray.gpus_per_task, job.ray.cpus_per_task) == ("auto", 1.0)
    assert [(target.name, target.prompt) for target in job.targets] == [("blue", "blue"), ("own", None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "targets: "),
        ({"targets": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "targets named twice: a"),
        ({"targets": [{"name": "a b"}]}, "targets.0.name"),
        ({"targets": [{"name": "../a"}]}, "targets.0.name"),
        ({"targets": [{"name": "a", "prompt": "blue"}]}, "target a has one text of two: give source_prompt and prompt"),
        ({"targets": [{"name": "a", "domain": "sketch", "source_prompt": "x", "prompt": "y"}]},
         "target a has a domain and texts"),
        ({"targets": [{"name": "a", "steps": 3}]}, "targets.0.steps: unknown key"),
        ({"manifest": None, "targets": [{"name": "a"}, {"name": "b", "manifest": "m.parquet"}]},
         "no manifest for a: give the job one, or each target its own"),
        ({"editor": {"name": "x", "weights": "w"}}, "editor: unknown key"),
        ({"ray": {"actors": 2}}, "ray.actors: unknown key"),
        ({"ray": {"cpus_per_task": 0}}, "ray.cpus_per_task"),
        ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_a_wrong_fine_tuning_is_refused_in_one_line_that_names_the_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(finetuning(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_set_reaches_into_a_list_by_number(tmp_path: Path) -> None:
    job = load_job(
        finetuning(tmp_path), ["targets.0.name=green", "targets.1.params.t_0=300", "targets.1.domain=sketch"]
    )
    assert isinstance(job, FinetuneJob)
    assert [target.name for target in job.targets] == ["green", "own"]
    assert job.targets[1].params == {"t_0": 300}
    whole = load_job(finetuning(tmp_path), ["targets.1={name: other}"])
    assert isinstance(whole, FinetuneJob)
    assert [target.name for target in whole.targets] == ["blue", "other"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("targets.2.name=x", "'2' is no entry of a list of 2; the first is 0"),
        ("targets.-1.name=x", "'-1' is no entry of a list of 2"),
        ("targets.blue.name=x", "'blue' is no entry of a list of 2"),
        ("targets.2={name: x}", "'2' is no entry of a list of 2"),
        ("targets.name=x", "'name' is no entry of a list of 2"),
        ("targets.0.name.first=x", "'name' holds a value, not a mapping"),
    ],
)
def test_an_override_outside_a_list_is_refused_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(finetuning(tmp_path), [override])
    assert message in str(error.value)
    assert f"--set {override!r}" in str(error.value)
