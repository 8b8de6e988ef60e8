"""Rows on a canvas: strips in order, prompts and seeds of their own, the image untouched, whatever shares the batch."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import retouch
from retouch.cli.app import main
from retouch.diffusion.noise import derive_seed
from retouch.errors import ConfigError, Filtered
from retouch.execution.candidates import candidate_seed
from retouch.execution.edit import run
from retouch.execution.engine import Engine
from retouch.execution.outcomes import Outcome
from retouch.execution.plan import make_plan
from retouch.execution.planning.strata import stratify
from retouch.execution.rerun import IDENTICAL, rerun
from retouch.execution.specs import EngineSpec
from retouch.imaging import codec
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import EditJob, MetricSpec
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Sample
from retouch.outputs import results
from retouch.outputs.edited import read_edited
from retouch.outputs.verify import verify_output
from retouch.schema import Batch, EditResult
from rich.console import Console

from tests.helpers.datasets import painter_job, picture, png, square, write_dataset
from tests.helpers.painters import Painter, PainterParams


class Recorder(Painter):
    """A painter that keeps its batches, and spoils everything outside the mask."""

    batches: ClassVar[list[Batch]] = []

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        Recorder.batches.append(batch)
        if "flag" in batch.prompt:
            return [EditResult(image, {}, Filtered("flagged")) for image in batch.image]
        painted = super().edit_batch(batch)
        return [
            replace(result, image=np.where(mask[..., None], result.image, 255 - image).astype(np.uint8))
            for result, image, mask in zip(painted, batch.image, batch.mask, strict=True)
        ]


class Keeper(Painter):
    """An editor that changes what is there, and fills no masks."""

    fills_masks: ClassVar[bool] = False


class Guided(Painter):
    """An editor that paints what an exemplar shows."""

    class Params(PainterParams):
        needs = frozenset({"exemplar"})


SPEC = EngineSpec(
    editor="tests.execution.test_outpainting:Recorder",
    params={"size": 20},
    weights={},
    metrics=(
        MetricSpec(name="background_l1", weights={}),
        MetricSpec(name="source_ssim", weights={}),
        MetricSpec(name="seam_l1", weights={}),
    ),
    batch_size=4,
)
TWO = CanvasSpec(left=6, right=8, prompt_left="hell", prompt_right="heaven", steps=2)


def sample(key: str, canvas: CanvasSpec, prompt: str = "sea", size: tuple[int, int] = (20, 24)) -> Sample:
    request = {"key": key, "fingerprint": f"fp-{key}", "image": png(picture(len(key), *size)), "prompt": prompt}
    return decode(request, DecodeSpec(frozenset({"mask", "prompt"}), canvas=canvas))


def painted(canvas: CanvasSpec, samples: list[Sample], **changes: Any) -> list[Outcome]:
    Recorder.batches.clear()
    return Engine(replace(SPEC, canvas=canvas, **changes), "cpu").edit(samples)


def pixels(outcome: Outcome) -> list[np.ndarray]:
    return [kept.image for kept in outcome.kept]


def test_each_strip_has_its_sides_prompt_and_a_seed_of_its_own() -> None:
    (outcome,) = painted(TWO, [sample("a", TWO)])
    assert [batch.prompt[0] for batch in Recorder.batches] == ["hell", "hell", "heaven", "heaven"]
    seed = candidate_seed(0, "a", 0)
    expected = [derive_seed(seed, "canvas", side, number) for side in ("left", "right") for number in (0, 1)]
    assert [batch.seed[0] for batch in Recorder.batches] == expected
    assert outcome.kept[0].seed == seed


def test_each_strip_continues_what_the_passes_before_it_painted() -> None:
    (outcome,) = painted(TWO, [sample("a", TWO)])
    (canvas,) = pixels(outcome)
    assert np.array_equal(canvas[:, 6:30], picture(1))
    second = Recorder.batches[1]
    # The window starts at the strip's outer edge and is as high as the image.
    assert np.array_equal(second.image[0][:, 3:], canvas[:, 3:20])
    assert np.array_equal(second.image[0][:, :3], second.image[0][:, 6:3:-1])
    assert second.mask[0].sum() == 3 * 20
    assert len({tuple(canvas[0, x]) for x in (0, 3, 30, 34)}) == 4


def test_a_row_is_the_same_whatever_shares_its_batch() -> None:
    samples = [sample("abc"[: n + 1], TWO, "xyz"[n], (20, 24 + 7 * n)) for n in range(3)]
    together = painted(TWO, samples, candidates=3, keep=3)
    for one, outcome in zip(samples, together, strict=True):
        (alone,) = painted(TWO, [one], candidates=3, keep=3)
        assert [kept.seed for kept in alone.kept] == [kept.seed for kept in outcome.kept]
        assert all(np.array_equal(a, b) for a, b in zip(pixels(alone), pixels(outcome), strict=True))
    small = painted(TWO, samples, params={"size": 20, "most": 1})  # out of memory: the shape is halved down to one
    assert all(np.array_equal(pixels(a)[0], pixels(b)[0]) for a, b in zip(painted(TWO, samples), small, strict=True))


def test_candidates_are_ranked_by_the_mean_of_their_passes() -> None:
    (outcome,) = painted(TWO, [sample("a", TWO)], candidates=3, keep=3)
    distances = [kept.scores["distance"] for kept in outcome.kept]
    assert distances == sorted(distances)
    seeds = [derive_seed(outcome.kept[0].seed, "canvas", side, n) for side in ("left", "right") for n in (0, 1)]
    assert distances[0] == pytest.approx(np.mean([seed % 1000 / 1000 for seed in seeds]))


def test_metrics_compare_the_finished_canvas_with_the_source_on_it() -> None:
    one, other = painted(TWO, [sample("a", TWO), sample("ab", TWO, size=(20, 40))])
    for outcome in (one, other):
        scores = outcome.kept[0].scores
        assert scores["background_l1"] == 0
        assert -1 <= scores["source_ssim"] < 0.9
        assert scores["seam_l1"] is not None


def test_a_row_whose_pass_fails_has_its_error_and_its_mates_are_finished() -> None:
    # Fails in the last of four passes.
    spec = CanvasSpec(left=2, right=2, steps=2, prompt_left="sea")
    samples = [sample("a", spec), sample("ab", spec, "raise"), sample("abc", spec)]
    fine, failed, also_fine = painted(spec, samples)
    assert (failed.failure.type, failed.failure.message) == ("EditError", "this prompt cannot be edited")  # type: ignore[union-attr]
    assert np.array_equal(pixels(fine)[0], pixels(painted(spec, samples[:1])[0])[0])
    assert np.array_equal(pixels(also_fine)[0], pixels(painted(spec, samples[2:])[0])[0])


def test_an_entry_that_was_refused_takes_no_later_pass() -> None:
    spec = CanvasSpec(left=2, right=2, prompt_left="flag")
    (outcome,) = painted(spec, [sample("a", spec)])
    assert outcome.failure is not None
    assert (outcome.failure.status, len(Recorder.batches)) == ("filtered", 1)


def command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def grown_job(folder: Path, rows: int = 5, **changes: Any) -> EditJob:
    manifest = write_dataset(folder, rows, mask=[None] * rows)
    canvas = {"left": 0.25, "bottom": 7, "prompt_bottom": "sand", "steps": 2}
    return painter_job(folder, manifest, **{"canvas": canvas, **changes})


def finish(job: EditJob, **options: Any) -> None:
    assert run(job, executor="local", console=Console(file=io.StringIO()), **options).exit_code == 0


@pytest.mark.slow
def test_a_whole_job_keeps_every_image_resumes_and_is_proved(tmp_path: Path) -> None:
    job = grown_job(tmp_path, candidates=2, keep=2, metrics=["background_l1"])
    finish(job, limit=2)
    finish(job)
    rows = {row["key"]: row for row in results.read(job.output).to_pylist()}
    assert len(rows) == 5
    for number in range(5):
        row = rows[f"row-{number:03d}"]
        assert (row["width"], row["height"], row["background_changed_px"], row["attempts"]) == (30, 27, 0, 2)
        for image in (row, *row["runners_up"]):
            canvas = codec.decode_image((tmp_path / "out" / image["output"]).read_bytes()).pixels
            assert np.array_equal(canvas[:20, 6:], picture(number))
    assert verify_output(job.output).ok
    assert rerun(job.output, "row-003").verdict == IDENTICAL
    finish(job.model_copy(update={"output": str(tmp_path / "other"), "ray": job.ray.model_copy(update={"actors": 1})}))
    again = {row["key"]: row["sha256"] for row in results.read(str(tmp_path / "other")).to_pylist()}
    assert again == {key: row["sha256"] for key, row in rows.items()}


def test_what_reads_a_finished_canvas_sees_source_and_edit_at_one_size(tmp_path: Path) -> None:
    job = grown_job(tmp_path, 3)
    finish(job)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "canvas" in page
    assert "the source is now" not in page
    edited = read_edited(job.output, "row-001")
    assert edited.source.shape == edited.image.shape == (27, 30, 3)
    assert np.array_equal(edited.image[~edited.mask], edited.source[~edited.mask])
    command("export", job.output, str(tmp_path / "pairs"), "--format", "folder", "--layout", "pairs")
    assert len((tmp_path / "pairs" / "metadata.jsonl").read_text().splitlines()) == 3
    evaluate = {
        "kind": "evaluate",
        "name": "e",
        "results": job.output,
        "output": str(tmp_path / "scores"),
        "row_metrics": ["background_l1", "seam_l1"],
    }
    (tmp_path / "evaluate.yaml").write_text(json.dumps(evaluate))
    command("evaluate", str(tmp_path / "evaluate.yaml"), "--executor", "local")
    scored = pq.read_table(tmp_path / "scores" / "rows.parquet").to_pylist()
    assert [row["background_l1"] for row in scored] == [0, 0, 0]


def test_from_python_an_image_grows_as_in_a_job(tmp_path: Path) -> None:
    job = grown_job(tmp_path, 1)
    finish(job)
    assert job.canvas is not None
    editor = retouch.load_editor(job.editor.name, canvas=job.canvas.model_dump(), batch_size=4)
    edited = editor(picture(0), prompt="a red circle", key="row-000")
    row = results.read(job.output).to_pylist()[0]
    assert codec.encode(edited.image) == (tmp_path / "out" / row["output"]).read_bytes()


def test_an_editor_that_fills_no_masks_is_refused_in_one_line(tmp_path: Path) -> None:
    def refusal(**changes: Any) -> str:
        with pytest.raises(ConfigError) as error:
            make_plan(grown_job(tmp_path, **changes))
        return str(error.value)

    editor = {"name": "tests.execution.test_outpainting:Keeper", "weights": {}}
    assert "Keeper fills no masks with these weights and params" in refusal(editor=editor)
    assert "fills no masks" in refusal(editor={"name": "diffusionclip", "weights": "embedded:shapes"})
    guided = {"name": "paint_by_example", "weights": "embedded:shapes"}
    assert "paints what an exemplar shows, and the manifest has none" in refusal(editor=guided, metrics=[])
    params = {"url": "http://localhost:1/v1", "model": "m", "mask": "none", "size": 64}
    with pytest.raises(ConfigError, match="endpoint fills no masks"):
        Engine(replace(SPEC, editor="endpoint", params=params, canvas=TWO), "cpu")


def test_a_row_with_a_mask_of_its_own_fails_and_the_others_grow(tmp_path: Path) -> None:
    job = grown_job(tmp_path, 2, max_failure_rate=0.5)
    (tmp_path / "mask.png").write_bytes(png(square()))
    write_dataset(tmp_path, 2, mask=[None, "mask.png"])
    finish(job)
    statuses = {row["key"]: (row["status"], row["error_message"]) for row in results.read(job.output).to_pylist()}
    assert statuses["row-000"] == ("success", None)
    assert statuses["row-001"][0] == "failed_to_load"
    assert "leave the cell empty" in statuses["row-001"][1]


def test_the_forecast_counts_the_pixels_of_the_canvas(tmp_path: Path) -> None:
    plan = make_plan(grown_job(tmp_path))
    assert stratify(plan.todo, range(5)).mean_megapixels == pytest.approx(20 * 24 / 1e6)
    assert stratify(plan.todo, range(5), plan.job.canvas).mean_megapixels == pytest.approx(27 * 30 / 1e6)


def test_a_feather_fades_in_from_the_reflection() -> None:
    (sharp,) = painted(TWO, [sample("a", TWO)])
    (soft,) = painted(TWO, [sample("a", TWO)], feather=2)
    assert np.array_equal(pixels(soft)[0][:, 6:30], picture(1))
    seam = [np.abs(pixels(one)[0][:, 5].astype(int) - picture(1)[:, 1]).mean() for one in (sharp, soft)]
    assert seam[1] < seam[0]
