from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from retouch.errors import ConfigError, PluginError
from retouch.execution.evaluation import metric_states
from retouch.execution.evaluation.image_sets import read_set, with_requests
from retouch.execution.evaluation.scorer import Scorer, ScoreSpec, Shard, row_metric_id
from retouch.jobs.config import MetricSpec
from retouch.schema import Batch, Pixels

from tests.helpers.datasets import picture, png, write_dataset
from tests.helpers.set_metrics import Colour

COLOUR = MetricSpec(name="tests.helpers.set_metrics:Colour")
REDNESS = MetricSpec(name="tests.helpers.painters:Redness")


def write_images(folder: Path, count: int, **sizes: Any) -> str:
    folder.mkdir()
    for number in range(count):
        (folder / f"row-{number:03d}.png").write_bytes(png(picture(number, **sizes)))
    return str(folder)


def shard_of(tmp_path: Path, source: str, scores: bool = False) -> Shard:
    found = read_set(source)
    if scores:
        found = with_requests(found, str(write_dataset(tmp_path, 4)))
    table = str(tmp_path / "rows.parquet") if scores else None
    return Shard("one", found.base, found.rows, {0: str(tmp_path / "state.safetensors")}, table)


def test_a_shards_state_is_of_the_features_of_its_images(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, write_images(tmp_path / "images", 4))
    assert Scorer(ScoreSpec((COLOUR,)), "cpu").score(shard) == "one"
    kept = metric_states.read(shard.states[0])
    assert (kept.images, kept.failed) == (4, {})
    expected = np.mean([picture(i).reshape(-1, 3).mean(0) for i in range(4)], axis=0)
    np.testing.assert_allclose(kept.arrays["mean"], expected, rtol=1e-6)


def test_images_that_cannot_be_read_or_have_no_features_are_named_in_the_state(tmp_path: Path) -> None:
    folder = Path(write_images(tmp_path / "images", 4))
    (folder / "row-001.png").write_bytes(b"no image")
    black = picture(2)
    black[0, 0] = 0
    (folder / "row-002.png").write_bytes(png(black))
    shard = shard_of(tmp_path, str(folder))
    Scorer(ScoreSpec((COLOUR,)), "cpu").score(shard)
    kept = metric_states.read(shard.states[0])
    assert kept.images == 2
    assert list(kept.failed) == ["row-001", "row-002"]
    assert "LoadError" in kept.failed["row-001"]
    assert kept.failed["row-002"] == "the image's first pixel is black"


def test_a_shard_of_which_nothing_can_be_read_has_an_empty_state(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    shard = shard_of(tmp_path, str(tmp_path / "images"))
    Scorer(ScoreSpec((COLOUR,)), "cpu").score(shard)
    kept = metric_states.read(shard.states[0])
    assert (kept.images, dict(kept.arrays), list(kept.failed)) == (0, {}, ["a"])


def test_row_metrics_see_the_finished_image_beside_its_source_and_mask(tmp_path: Path) -> None:
    folder = Path(write_images(tmp_path / "images", 4))
    inverted = 255 - picture(1)
    (folder / "row-001.png").write_bytes(png(inverted))
    spec = ScoreSpec((), (REDNESS, MetricSpec(name="retouch.metrics.background:BackgroundL1")))
    shard = shard_of(tmp_path, str(folder), scores=True)
    Scorer(spec, "cpu").score(Shard(shard.name, shard.base, shard.rows, {}, shard.scores))
    rows = {row["key"]: row for row in pq.read_table(shard.scores).to_pylist()}
    assert rows["row-000"]["background_l1"] == 0
    outside = np.ones((20, 24), dtype=bool)
    outside[4:12, 6:16] = False  # tests.helpers.datasets.square
    expected = np.abs(2 * picture(1)[outside].astype(int) - 255).mean()
    assert rows["row-001"]["background_l1"] == pytest.approx(expected)
    assert rows["row-001"]["redness"] == pytest.approx(inverted[..., 0].mean())


def test_a_row_that_cannot_be_scored_says_why(tmp_path: Path) -> None:
    folder = Path(write_images(tmp_path / "images", 4))
    (folder / "row-000.png").write_bytes(png(picture(0, height=10)))
    (folder / "stranger.png").write_bytes(png(picture(0)))
    (folder / "row-002.png").write_bytes(b"no image")
    shard = shard_of(tmp_path, str(folder), scores=True)
    (tmp_path / "files" / "3.png").unlink()
    Scorer(ScoreSpec((), (REDNESS,)), "cpu").score(Shard(shard.name, shard.base, shard.rows, {}, shard.scores))
    errors = {row["key"]: row["error"] for row in pq.read_table(shard.scores).to_pylist()}
    assert errors["row-000"] == "the image has 24x10 pixels, its source 24x20"
    assert errors["stranger"] == "the manifest has no row of this key"
    assert "LoadError" in errors["row-002"]
    assert errors["row-003"].startswith("its source: ")
    assert errors["row-001"] is None


class Picky:
    """A row metric that fails on dark red images."""

    columns: ClassVar[Mapping[str, str]] = {"picky": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Picky:
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> list[dict[str, float]]:
        if edited[..., 0].mean() < 50:
            raise ZeroDivisionError("no red")
        return [{"picky": 1.0}]


def test_a_metric_that_fails_on_a_row_leaves_the_others_their_score(tmp_path: Path) -> None:
    folder = Path(write_images(tmp_path / "images", 4))
    (folder / "row-001.png").write_bytes(png(picture(1) // 8))
    spec = ScoreSpec((), (MetricSpec(name="tests.execution.evaluation.test_scorer:Picky"), REDNESS))
    shard = shard_of(tmp_path, str(folder), scores=True)
    Scorer(spec, "cpu").score(Shard(shard.name, shard.base, shard.rows, {}, shard.scores))
    rows = {row["key"]: row for row in pq.read_table(shard.scores).to_pylist()}
    assert (rows["row-000"]["picky"], rows["row-000"]["error"]) == (1.0, None)
    assert rows["row-001"]["picky"] is None
    assert rows["row-001"]["error"] == "tests.execution.evaluation.test_scorer:Picky: no red"
    assert rows["row-001"]["redness"] < 50


def test_an_id_holds_name_options_model_preprocessing_and_the_hash_of_the_weights_it_uses(tmp_path: Path) -> None:
    from tests.helpers.tiny_clip import write_own_layout

    clip = write_own_layout(tmp_path)[0]
    spec = MetricSpec(name="retouch.metrics.fid:ClipFid", weights={"clip": clip, "unet": clip})
    (loaded,) = Scorer(ScoreSpec((spec,)), "cpu").set_metrics
    assert loaded.id["metric"] == spec.name
    assert list(loaded.id["weights"]) == ["clip", "clip.json"]  # the unet decides nothing
    assert all(len(digest) == 12 for digest in loaded.id["weights"].values())
    assert loaded.id["preprocessing"].startswith("shorter side to 32 px")
    assert row_metric_id(spec, None)["weights"].keys() == {"clip", "clip.json", "unet", "unet.json"}


def test_metrics_without_weights_take_the_runs(tmp_path: Path) -> None:
    from tests.helpers.tiny_clip import write_own_layout

    spec = ScoreSpec((MetricSpec(name="retouch.metrics.fid:ClipFid"),), weights={"clip": write_own_layout(tmp_path)[0]})
    assert Scorer(spec, "cpu").set_metrics[0].id["weights"]


def test_unknown_metrics_and_options_are_said_in_one_line() -> None:
    with pytest.raises(PluginError, match="no set metric named 'fud'"):
        Scorer(ScoreSpec((MetricSpec(name="fud"),)), "cpu")
    with pytest.raises(ConfigError, match=r"Colour: options .*grain"):
        Scorer(ScoreSpec((MetricSpec(name=COLOUR.name, options={"grain": 2}),)), "cpu")


def test_options_reach_the_metric(tmp_path: Path) -> None:
    (loaded,) = Scorer(ScoreSpec((MetricSpec(name=COLOUR.name, options={"gain": 3.0}),)), "cpu").set_metrics
    assert isinstance(loaded.metric, Colour)
    assert loaded.metric.gain == 3
