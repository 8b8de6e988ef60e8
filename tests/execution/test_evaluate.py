"""A finished set measured from start to end: numbers, resume, merging, what was not counted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from retouch.cli.app import app
from retouch.errors import ConfigError, Interrupted, RetouchError
from retouch.execution.edit import run
from retouch.execution.evaluate import Evaluation, evaluate
from retouch.execution.evaluation.metric_states import read
from retouch.execution.evaluation.scorer import Scorer
from retouch.jobs.config import EvaluateJob, parse_job
from retouch.metrics.frechet import Moments, frechet_distance
from rich.console import Console
from typer.testing import CliRunner

from tests.helpers.datasets import painter_job, picture, png, write_dataset
from tests.helpers.set_metrics import Colour
from tests.helpers.tiny_clip import write_own_layout

ROWS = 9


@pytest.fixture
def made(tmp_path: Path) -> str:
    """A run with two rows that failed."""
    prompts = {2: "raise", 5: "raise"}
    job = painter_job(tmp_path, write_dataset(tmp_path, ROWS, prompts), max_failure_rate=1.0)
    run(job, executor="local", console=Console(file=io.StringIO()))
    return job.output


@pytest.fixture
def real(tmp_path: Path) -> str:
    folder = tmp_path / "real"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(picture(100 + number, 16, 16) // 2))
    return str(folder)


def job_of(results: str, reference: Any = None, **changes: Any) -> EvaluateJob:
    data: dict[str, Any] = {
        "kind": "evaluate",
        "name": "bench",
        "results": results,
        "reference": reference,
        "output": f"{results}-eval",
        "metrics": ["tests.helpers.set_metrics:Colour"],
        "shards": 3,
    }
    job = parse_job({**data, **changes}, "test")
    assert isinstance(job, EvaluateJob)
    return job


def quiet(job: EvaluateJob) -> Evaluation:
    return evaluate(job, executor="local", console=Console(file=io.StringIO()))


def values(done: Evaluation) -> dict[str, float]:
    return {name: value for metric in done.record["metrics"] for name, value in metric["values"].items()}


def test_the_number_is_that_of_the_images_that_the_run_made_against_the_real_ones(made: str, real: str) -> None:
    from retouch.execution.evaluation.image_sets import decode_images, read_set

    done = quiet(job_of(made, real))
    means = [
        np.stack(
            [np.asarray(image).reshape(-1, 3).mean(0).astype(np.float32) for _, image in decode_images(s.base, s.rows)]
        )
        for s in (read_set(made), read_set(real))
    ]
    expected = frechet_distance(*(Moments.of(features) for features in means))
    assert values(done)["colour"] == pytest.approx(expected, rel=1e-8)
    assert json.loads((Path(made + "-eval") / "metrics.json").read_text()) == json.loads(json.dumps(done.record))


def test_rows_without_an_image_are_counted_and_named(made: str, real: str) -> None:
    done = quiet(job_of(made, real))
    missing = done.record["results"]["missing"]
    assert done.record["results"]["images"] == ROWS - 2
    assert missing["by"] == {"failed_to_edit": 2}
    assert list(missing["keys"]) == ["row-002", "row-005"]
    (metric,) = done.record["metrics"]
    assert (metric["images"], metric["reference"]["images"]) == (ROWS - 2, 12)
    table = pq.read_table(f"{made}-eval/rows.parquet")
    assert table["key"].to_pylist() == [f"row-{i:03d}" for i in range(ROWS)]
    assert table["status"].to_pylist().count("missing") == 2


def test_an_image_that_cannot_be_read_is_uncounted_and_named(made: str, real: str) -> None:
    (Path(real) / "3.png").write_bytes(b"broken")
    gone = next(Path(made).rglob("row-004-*.png"))
    gone.unlink()
    (metric,) = quiet(job_of(made, real)).record["metrics"]
    assert metric["uncounted"]["count"] == 1
    assert "row-004" in metric["uncounted"]["keys"]
    assert metric["reference"]["uncounted"]["keys"].keys() == {"3"}
    assert (metric["images"], metric["reference"]["images"]) == (ROWS - 3, 11)


@pytest.mark.parametrize("shards", [2, 5, 100])
def test_however_it_is_cut_the_number_is_the_same(made: str, real: str, shards: int) -> None:
    whole = values(quiet(job_of(made, real, shards=1, output=f"{made}-one")))
    assert values(quiet(job_of(made, real, shards=shards))) == {"colour": pytest.approx(whole["colour"], rel=1e-8)}


def test_what_is_there_is_not_computed_again(made: str, real: str) -> None:
    Colour.seen.clear()
    Colour.fits.clear()
    first = quiet(job_of(made, real))
    assert (len(Colour.seen), len(Colour.fits)) == (ROWS - 2 + 12, 1)
    again = quiet(job_of(made, real))
    assert (len(Colour.seen), len(Colour.fits)) == (ROWS - 2 + 12, 1)
    assert again.record == first.record


def test_an_interrupted_call_resumes_with_the_shards_that_are_left(
    made: str, real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = values(quiet(job_of(made, real, output=f"{made}-whole")))
    Colour.seen.clear()
    score, done = Scorer.score, []

    def killed(self: Scorer, shard: Any) -> str:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(shard.name)
        return score(self, shard)

    monkeypatch.setattr(Scorer, "score", killed)
    with pytest.raises(Interrupted, match="stopped with 4 of 6 shards done; run the same command again to resume"):
        quiet(job_of(made, real))
    assert not Path(f"{made}-eval/metrics.json").exists()
    seen = len(Colour.seen)
    assert 0 < seen < ROWS - 2 + 12
    monkeypatch.setattr(Scorer, "score", score)
    assert values(quiet(job_of(made, real))) == whole
    assert len(Colour.seen) == ROWS - 2 + 12


def test_another_image_option_or_weight_is_computed_again(made: str, real: str) -> None:
    quiet(job_of(made, real))
    Colour.seen.clear()
    (Path(real) / "0.png").write_bytes(png(picture(77, 16, 16)))
    quiet(job_of(made, real))
    assert len(Colour.seen) == 4  # the one shard of three that holds it
    Colour.seen.clear()
    gained = [{"name": "tests.helpers.set_metrics:Colour", "options": {"gain": 2.0}}]
    assert values(quiet(job_of(made, real, metrics=gained)))["colour"] > 0
    assert len(Colour.seen) == ROWS - 2 + 12


def test_what_one_job_kept_of_its_reference_serves_another(made: str, real: str) -> None:
    first = quiet(job_of(made, real))
    (kept,) = Path(f"{made}-eval/reference").iterdir()
    Colour.seen.clear()
    again = quiet(job_of(made, str(kept), output=f"{made}-again"))
    assert values(again) == values(first)
    assert len(Colour.seen) == ROWS - 2
    assert again.record["metrics"][0]["reference"] == {**first.record["metrics"][0]["reference"], "source": str(kept)}
    assert read(str(kept)).images == 12


def test_what_was_kept_under_another_id_is_refused(made: str, real: str) -> None:
    quiet(job_of(made, real))
    (kept,) = Path(f"{made}-eval/reference").iterdir()
    gained = [{"name": "tests.helpers.set_metrics:Colour", "options": {"gain": 2.0}}]
    with pytest.raises(ConfigError, match="is not comparable with"):
        quiet(job_of(made, str(kept), metrics=gained))


def test_row_metrics_are_scored_on_the_finished_images_with_the_runs_manifest(made: str) -> None:
    rows = ["tests.helpers.painters:Redness", "retouch.metrics.background:BackgroundL1"]
    done = quiet(job_of(made, metrics=[], row_metrics=rows))
    redness, background = done.record["row_metrics"]
    assert background["values"]["background_l1"] == {"images": ROWS - 2, "mean": 0.0}  # composited images
    assert redness["id"] == {"metric": "tests.helpers.painters:Redness", "options": {}, "weights": {}}
    table = pq.read_table(f"{made}-eval/rows.parquet")
    measured = [value for value in table["redness"].to_pylist() if value is not None]
    assert len(measured) == ROWS - 2
    assert redness["values"]["redness"]["mean"] == pytest.approx(np.mean(measured))


def test_a_folder_of_another_systems_images_is_scored_against_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for number in (0, 1):
        (folder / f"row-{number:03d}.png").write_bytes(png(255 - picture(number)))
    manifest = str(write_dataset(tmp_path, 3))
    rows = ["retouch.metrics.background:BackgroundL1"]
    done = quiet(job_of(str(folder), metrics=[], row_metrics=rows, manifest=manifest))
    assert done.record["results"]["missing"]["keys"] == {"row-002": "no image of this key"}
    assert done.record["row_metrics"][0]["values"]["background_l1"]["mean"] > 50
    with pytest.raises(ConfigError, match="is not a run's output; set manifest in the job"):
        quiet(job_of(str(folder), metrics=[], row_metrics=rows))


def test_clip_metrics_of_a_run_are_on_its_own_images(made: str, real: str, tmp_path: Path) -> None:
    clip = {"clip": write_own_layout(tmp_path)[0]}
    specs = [
        {"name": "retouch.metrics.fid:ClipFid", "weights": clip},
        {"name": "retouch.metrics.quality_score:QualityScore", "weights": clip, "options": {"components": 2}},
    ]
    done = quiet(job_of(made, real, metrics=specs))
    found = values(done)
    assert found["fid_clip"] > 0
    assert 0 <= found["quality_score"] <= 100
    same = values(quiet(job_of(real, real, metrics=specs, output=f"{made}-same")))
    assert same["fid_clip"] == pytest.approx(0, abs=1e-5)
    assert same["mean_log_likelihood"] > found["mean_log_likelihood"]


def test_a_metric_that_compares_nothing_needs_no_reference(made: str) -> None:
    assert values(quiet(job_of(made, metrics=["tests.helpers.set_metrics:Count"]))) == {"count": ROWS - 2}


def test_each_metric_may_have_its_own_reference(made: str, real: str) -> None:
    metrics = ["tests.helpers.set_metrics:Colour", "tests.helpers.set_metrics:Count"]
    done = quiet(job_of(made, {"tests.helpers.set_metrics:Colour": real}, metrics=metrics))
    assert values(done).keys() == {"colour", "count"}


def test_a_wrong_job_is_refused_before_anything_is_written(made: str, real: str, tmp_path: Path) -> None:
    for job, line in (
        (job_of(made), "needs a reference; set reference in the job"),
        (job_of(made, str(tmp_path / "nowhere")), "no image at"),
        (job_of(str(tmp_path / "nowhere"), real), "no image at"),
        (job_of(made, real, metrics=["fud"]), "no set metric named 'fud'"),
    ):
        with pytest.raises(RetouchError, match=line):
            quiet(job)
    assert not Path(f"{made}-eval").exists()
    with pytest.raises(ConfigError, match="nothing to measure"):
        job_of(made, real, metrics=[])


def test_images_that_cannot_be_read_at_all_end_the_evaluation(made: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no image of .* could be read, first a: LoadError"):
        quiet(job_of(made, str(broken)))


def test_the_command_prints_the_numbers_and_what_is_missing(made: str, real: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(job_of(made, real, row_metrics=["tests.helpers.painters:Redness"]).model_dump(mode="json"))
    )
    called = CliRunner().invoke(app, ["evaluate", str(path), "--executor", "local"])
    assert called.exit_code == 0, called.output
    assert f"images: {ROWS - 2}, 2 failed_to_edit" in called.output
    assert f"{ROWS - 2} images against 12" in called.output
    assert "redness" in called.output
    refused = CliRunner().invoke(app, ["run", str(path)])
    assert isinstance(refused.exception, ConfigError)
    assert "is of kind evaluate; run: retouch evaluate" in str(refused.exception)


def test_ray_has_nothing_to_do_where_all_is_there(made: str, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = quiet(job_of(made, real))
    monkeypatch.setattr("retouch.execution.executors.ray.evaluate.execute", None)  # would fail if it were called
    again = evaluate(job_of(made, real), executor="ray", console=Console(file=io.StringIO()))
    assert again.record["metrics"] == done.record["metrics"]
