"""The engine answers every sample once: batched, bisected, ranked, and never raises for a row's own fault."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch import storage
from retouch.errors import ConfigError, PluginError, StorageError
from retouch.execution.candidates import candidate_seed
from retouch.execution.engine import Engine
from retouch.execution.outcomes import Outcome
from retouch.execution.specs import EngineSpec
from retouch.jobs.config import MetricSpec, QualitySpec, Threshold
from retouch.manifests.samples import Failure, Sample, failed_to_load
from retouch.schema import FAILED_QUALITY, FAILED_TO_EDIT, FAILED_TO_LOAD, Batch, EditResult

from tests.helpers.painters import Painter, PainterParams

SPEC = EngineSpec(
    editor="tests.helpers.painters:Painter",
    params={},
    weights={},
    metrics=(MetricSpec(name="tests.helpers.painters:Redness", weights={}),),
    candidates=2,
    batch_size=4,
)


def sample(key: str, prompt: str = "", **fields: object) -> Sample:
    generator = np.random.default_rng(abs(hash(key)) % 1000)
    source = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    mask = np.zeros((20, 24), bool)
    mask[4:12, 6:16] = True
    return Sample(key, f"fp-{key}", prompt, source=source, mask=mask, **fields)  # type: ignore[arg-type]


def kept_of(answer: Outcome) -> list[tuple[int, int, bytes]]:
    return [(kept.candidate, kept.seed, kept.image.tobytes()) for kept in answer.kept]


def test_the_best_candidate_by_the_editors_own_ranking_is_kept() -> None:
    (answer,) = Engine(replace(SPEC, candidates=5), "cpu").edit([sample("a")])
    seeds = [candidate_seed(0, "a", k) for k in range(5)]
    assert answer.kept[0].seed == min(seeds, key=lambda seed: seed % 1000)
    assert answer.attempts == 5


def test_keep_gives_the_best_in_order() -> None:
    (answer,) = Engine(replace(SPEC, candidates=5, keep=3), "cpu").edit([sample("a")])
    distances = [kept.scores["distance"] for kept in answer.kept]
    assert len(distances) == 3
    assert distances == sorted(distances)


def test_every_pass_has_the_one_batch_shape_whatever_the_number_of_rows() -> None:
    Painter.calls.clear()
    Engine(SPEC, "cpu").edit([sample(key) for key in "abcde"])
    assert Painter.calls == [4, 4, 4]


@settings(max_examples=20, deadline=None)
@given(st.permutations("abcdef"), st.integers(1, 6))
def test_a_rows_answer_depends_on_neither_order_nor_mates(keys: list[str], alone: int) -> None:
    engine = Engine(SPEC, "cpu")
    together = {a.sample.key: kept_of(a) for a in engine.edit([sample(key) for key in "abcdef"])}
    some = engine.edit([sample(key) for key in keys[:alone]])
    assert [kept_of(answer) for answer in some] == [together[key] for key in keys[:alone]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["", "raise", "short", "unreadable"]), max_size=9), st.integers(1, 5))
def test_as_many_answers_come_out_as_samples_went_in_and_only_the_bad_ones_fail(kinds: list[str], shape: int) -> None:
    samples = [
        failed_to_load(str(i), "fp", ValueError("no such thing")) if kind == "unreadable" else sample(str(i), kind)
        for i, kind in enumerate(kinds)
    ]
    answers = Engine(replace(SPEC, batch_size=shape), "cpu").edit(samples)
    assert [answer.sample.key for answer in answers] == [str(i) for i in range(len(kinds))]
    assert [answer.failure is None for answer in answers] == [kind == "" for kind in kinds]


def test_a_failure_says_its_stage_type_and_reason() -> None:
    bad, unreadable = Engine(SPEC, "cpu").edit([sample("a", "raise"), failed_to_load("b", "fp", OSError("gone"))])
    assert bad.failure == Failure(FAILED_TO_EDIT, "EditError", "this prompt cannot be edited", "edit")
    assert unreadable.failure is not None
    assert (unreadable.failure.status, unreadable.failure.stage) == (FAILED_TO_LOAD, "decode")
    assert "gone" in unreadable.failure.message


def test_too_little_memory_halves_the_shape_and_loses_no_row() -> None:
    Painter.calls.clear()
    engine = Engine(replace(SPEC, params={"most": 3}, batch_size=8), "cpu")
    answers = engine.edit([sample(key) for key in "abcdef"])
    assert all(answer.failure is None for answer in answers)
    assert engine.shape == 2


def test_after_some_good_passes_the_larger_shape_is_tried_again() -> None:
    engine = Engine(replace(SPEC, params={"most": 2}), "cpu")
    rows = [sample(f"k{number}") for number in range(60)]
    Painter.calls.clear()
    assert all(answer.failure is None for answer in engine.edit(rows))
    tries = Painter.calls.count(4)
    assert 2 <= tries <= 5, "again and again, but ever more rarely"
    assert isinstance(engine.editor, Painter)
    engine.editor.params = PainterParams()  # whoever took the memory has given it back
    assert all(answer.failure is None for answer in engine.edit([*rows, *rows]))
    assert engine.shape == 4


def test_a_row_with_which_workers_died_shares_no_pass_and_in_the_end_is_not_tried(tmp_path: Path) -> None:
    spec = replace(SPEC, candidates=1, output=str(tmp_path))
    rows = [sample(key) for key in "abcd"]
    whole = [kept_of(answer) for answer in Engine(spec, "cpu").edit(rows)]
    leave_behind(tmp_path, ["b", "c"], alone=0)
    Painter.calls.clear()
    again = Engine(spec, "cpu").edit(rows)
    assert [kept_of(answer) for answer in again] == whole
    assert Painter.calls == [4, 4, 4], "a and d together, b and c alone, all in the one shape"
    leave_behind(tmp_path, ["c"], alone=3)
    *_, lost, last = Engine(spec, "cpu").edit(rows)
    assert lost.failure is not None
    assert (lost.failure.status, lost.failure.type, lost.failure.stage) == (FAILED_TO_EDIT, "WorkerLost", "edit")
    assert last.failure is None
    assert storage.list_files(str(tmp_path)) == []


def test_notes_that_cannot_be_written_stop_the_run_and_fail_no_row(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        Engine(replace(SPEC, output=str(tmp_path / "out")), "cpu").edit([sample("a")])


def test_an_image_of_another_shape_or_type_fails_its_rows() -> None:
    class Misshapen(Painter):
        def edit_batch(self, batch: Batch) -> list[EditResult]:
            return [EditResult(result.image[:3].astype(float)) for result in super().edit_batch(batch)]  # type: ignore[arg-type]

    engine = Engine(SPEC, "cpu")
    engine.editor = Misshapen(PainterParams())
    (answer,) = engine.edit([sample("a")])
    assert answer.failure is not None
    assert "gave an image of float64 (3, 16, 3); expected uint8 (16, 16, 3)" in answer.failure.message


def leave_behind(output: Path, keys: list[str], alone: int) -> None:
    """The note of a worker that died."""
    note = json.dumps({"keys": keys, "alone": alone, "overdue": False}).encode()
    storage.write_bytes(f"{output}/in_flight/edit-{'-'.join(keys)}.json", note)


def test_rows_with_their_own_params_get_them_and_do_not_mix() -> None:
    plain, grey = Engine(SPEC, "cpu").edit([sample("a"), sample("b", params={"grey": 9})])
    inside = slice(4, 6)
    assert (grey.kept[0].image[8, inside] == 9).all()
    assert not (plain.kept[0].image[8, inside] == 9).all()


def test_a_wrong_parameter_of_a_row_fails_that_row_alone() -> None:
    good, bad = Engine(SPEC, "cpu").edit([sample("a"), sample("b", params={"greyness": 9})])
    assert good.failure is None
    assert bad.failure is not None
    assert "params.greyness: unknown key" in bad.failure.message


def test_a_wrong_parameter_of_the_job_stops_the_run() -> None:
    with pytest.raises(ConfigError, match=r"editor\.params\.greyness: unknown key; did you mean grey\?"):
        Engine(replace(SPEC, params={"greyness": 1}), "cpu")
    with pytest.raises(ConfigError, match="size"):
        Engine(replace(SPEC, params={"size": "big"}), "cpu")


def test_an_unknown_editor_is_named_with_those_that_are_installed() -> None:
    with pytest.raises(PluginError, match=r"no editor named 'blender'; .*installed: .*blended_diffusion"):
        Engine(replace(SPEC, editor="blender"), "cpu")


def test_reject_answers_with_the_missed_threshold_and_keeps_the_best_try() -> None:
    quality = QualitySpec(mode="reject", thresholds={"distance": Threshold(max=-1)})
    (answer,) = Engine(replace(SPEC, quality=quality), "cpu").edit([sample("a")])
    assert answer.failure is not None
    assert (answer.failure.status, answer.failure.type) == (FAILED_QUALITY, "QualityError")
    assert "is over -1" in answer.failure.message
    assert answer.kept


def test_retry_tries_further_seeds_until_one_keeps_the_threshold() -> None:
    seeds = [candidate_seed(0, "a", k) % 1000 / 1000 for k in range(40)]
    first = next(k for k, distance in enumerate(seeds) if distance < min(seeds[:2]))
    quality = QualitySpec(mode="retry", thresholds={"distance": Threshold(max=seeds[first])}, rounds=20)
    (answer,) = Engine(replace(SPEC, quality=quality), "cpu").edit([sample("a")])
    assert answer.failure is None
    assert answer.kept[0].candidate == first
    assert answer.attempts == (first // 2 + 1) * 2


def gated(rounds: int, bound: float, candidates: int = 2, shape: int = 4, **spec: object) -> Engine:
    quality = QualitySpec(mode="retry", thresholds={"distance": Threshold(max=bound)}, rounds=rounds)
    return Engine(replace(SPEC, quality=quality, candidates=candidates, batch_size=shape, **spec), "cpu")  # type: ignore[arg-type]


def told(answers: list[Outcome]) -> list[tuple]:
    return [(a.sample.key, kept_of(a), a.attempts, a.failure and a.failure.message) for a in answers]


@settings(max_examples=25, deadline=None)
@given(
    keys=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=6, unique=True),
    bound=st.floats(0, 0.6),
    small=st.integers(1, 3),
    more=st.integers(1, 4),
    candidates=st.integers(1, 3),
    shape=st.integers(1, 7),
)
def test_a_larger_budget_only_adds_candidates(
    keys: list[str], bound: float, small: int, more: int, candidates: int, shape: int
) -> None:
    rows = [sample(key) for key in keys]
    with_less = gated(small, bound, candidates, shape).edit(rows)
    with_more = gated(small + more, bound, candidates, shape).edit(rows)
    for less, other in zip(with_less, with_more, strict=True):
        if less.failure is None:
            assert told([less]) == told([other]), "what passed stays as it was"
        else:
            assert less.attempts == small * candidates
            assert other.attempts > less.attempts
            assert other.kept[0].scores["distance"] <= less.kept[0].scores["distance"], "the best so far is kept"


@settings(max_examples=25, deadline=None)
@given(bound=st.floats(0, 0.6), candidates=st.integers(1, 3), shape=st.integers(1, 9), alone=st.sampled_from("abcdef"))
def test_filling_passes_with_further_rounds_changes_no_answer(
    bound: float, candidates: int, shape: int, alone: str
) -> None:
    """As one row at a time in passes that hold one entry, where nothing is ever filled."""
    rows = [sample(key) for key in "abcdef"]
    plain = gated(4, bound, candidates, 1).edit(rows)
    assert told(gated(4, bound, candidates, shape).edit(rows)) == told(plain)
    (by_itself,) = gated(4, bound, candidates, shape).edit([sample(alone)])
    assert told([by_itself]) == told([plain["abcdef".index(alone)]])


def test_a_row_of_which_one_candidate_passes_is_tried_no_further_though_another_ranks_better() -> None:
    class Misranking(Painter):
        rank_by: ClassVar[str | None] = "other"

        def edit_batch(self, batch: Batch) -> list[EditResult]:
            edited = super().edit_batch(batch)
            return [replace(one, metrics={**one.metrics, "other": -one.metrics["distance"]}) for one in edited]

    seeds = [candidate_seed(0, "a", k) % 1000 / 1000 for k in range(2)]
    engine = gated(5, min(seeds), shape=2)
    engine.editor = Misranking(PainterParams())
    (answer,) = engine.edit([sample("a")])
    assert (answer.failure, answer.attempts) == (None, 2)
    assert answer.kept[0].scores["distance"] == min(seeds)


def test_rows_that_go_on_share_passes_until_one_passes_and_none_is_made_for_the_others() -> None:
    Painter.calls.clear()
    rows = [sample(key) for key in "abcdefgh"]
    answers = gated(8, 0.15, candidates=1, shape=8).edit(rows)
    tries = sum(answer.attempts for answer in answers)
    assert tries > 8
    rounds = max(answer.attempts for answer in answers)
    assert len(Painter.calls) < rounds, "the last rows' rounds go into what would be padding"
    assert all(answer.failure is None or answer.attempts == 8 for answer in answers)


def test_a_row_that_no_candidate_passes_says_how_near_its_best_one_came() -> None:
    seeds = [candidate_seed(0, "a", k) % 1000 / 1000 for k in range(6)]
    (answer,) = gated(3, -1.0).edit([sample("a")])
    assert answer.failure == Failure(FAILED_QUALITY, "QualityError", f"distance {min(seeds):.4g} is over -1", "score")
    assert answer.kept[0].scores["distance"] == min(seeds)
    assert answer.attempts == 6


class Reader(Painter):
    """Reads checkpoints; notes those that it was given."""

    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "checkpoint"})
    given: ClassVar[list[str | None]] = []

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        Reader.given.append(batch.checkpoint)
        return super().edit_batch(batch)


READER = replace(SPEC, editor="tests.execution.test_engine:Reader", candidates=1, batch_size=2)


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, str]:
    """Files by name."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.pt").write_bytes(name.encode())
    return {name: str(tmp_path / f"{name}.pt") for name in ("a", "b", "c")}


def test_a_rows_checkpoint_reaches_the_editor_as_a_role_or_a_local_file(checkpoints: dict[str, str]) -> None:
    Reader.given.clear()
    engine = Engine(replace(READER, weights={"unet": checkpoints["a"], "b": checkpoints["b"]}), "cpu")
    asked = ["b", f"file://{checkpoints['c']}", checkpoints["a"], None, ""]
    engine.edit([sample(str(i), checkpoint=checkpoint) for i, checkpoint in enumerate(asked)])
    assert Reader.given == [None, "b", checkpoints["c"], checkpoints["a"]]


def test_a_checkpoint_is_looked_up_once_an_engine(checkpoints: dict[str, str]) -> None:
    engine = Engine(READER, "cpu")
    (first,) = engine.edit([sample("a", checkpoint=checkpoints["a"])])
    Path(checkpoints["a"]).unlink()
    (second,) = engine.edit([sample("b", checkpoint=checkpoints["a"])])
    assert (first.failure, second.failure) == (None, None)


def test_a_checkpoint_that_is_not_there_fails_its_row_alone(checkpoints: dict[str, str], tmp_path: Path) -> None:
    wrong = f"{checkpoints['a']}#sha256={'0' * 64}"
    asked = [checkpoints["a"], str(tmp_path / "none.pt"), wrong]
    good, absent, changed = Engine(READER, "cpu").edit([sample(str(i), checkpoint=c) for i, c in enumerate(asked)])
    assert good.failure is None
    for answer, words in ((absent, "no weights at"), (changed, "the job pins")):
        assert answer.failure is not None
        assert (answer.failure.status, answer.failure.type) == (FAILED_TO_EDIT, "WeightsError")
        assert words in answer.failure.message


def test_rows_of_a_checkpoint_go_together_and_the_one_in_use_goes_first(checkpoints: dict[str, str]) -> None:
    Reader.given.clear()
    engine = Engine(READER, "cpu")

    def answered(names: str) -> list[str]:
        Reader.given.clear()
        rows = [
            sample(str(i), checkpoint=checkpoints[name], params={"grey": i % 2 + 1}) for i, name in enumerate(names)
        ]
        assert [answer.sample for answer in engine.edit(rows)] == rows
        return [Path(str(given)).stem for given in Reader.given]

    assert answered("abcabc") == ["a", "a", "b", "b", "c", "c"]
    assert answered("abcab") == ["c", "a", "a", "b", "b"]
    assert answered("ab") == ["b", "a"]


def test_an_editor_that_reads_no_checkpoint_never_has_one_fetched() -> None:
    (answer,) = Engine(SPEC, "cpu").edit([sample("a", checkpoint="/no/such/file.pt")])
    assert answer.failure is None


def test_latents_are_refused_for_an_editor_that_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inverts no images; remove latents from the job"):
        Engine(replace(SPEC, latents=str(tmp_path)), "cpu")


def test_a_seed_belongs_to_run_key_and_candidate() -> None:
    seeds = {candidate_seed(run, key, k) for run in (0, 1) for key in ("a", "b") for k in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    (own,) = Engine(SPEC, "cpu").edit([sample("a", seed=1)])
    assert own.kept[0].seed in {candidate_seed(1, "a", k) for k in (0, 1)}


@pytest.mark.slow
def test_importing_the_engine_leaves_ray_out() -> None:
    code = "import sys, retouch.execution.engine; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Wide(Painter):
    """Sees the image's own shape at half its size, with up to two entries per call; inverts what it sees."""

    max_batch: ClassVar[int] = 2
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, width // 2

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        self.shapes.append(batch.image.shape)
        return [EditResult(255 - image, {"distance": 0.0}) for image in batch.image]


def test_an_editor_with_sizes_sees_rectangles_and_rows_of_one_size_share_a_pass() -> None:
    Wide.shapes.clear()
    upright = replace(sample("tall"), source=np.zeros((40, 20, 3), np.uint8), mask=np.ones((40, 20), bool))
    samples = [sample("a"), upright, sample("b"), sample("c")]
    spec = replace(SPEC, editor=f"{__name__}:Wide", candidates=1, metrics=(), fit="resize")
    answers = Engine(spec, "cpu").edit(samples)
    assert [answer.kept[0].image.shape for answer in answers] == [(10, 12, 3), (20, 10, 3), (10, 12, 3), (10, 12, 3)]
    assert Wide.shapes == [(2, 10, 12, 3), (2, 10, 12, 3), (2, 20, 10, 3)]


def test_a_control_image_is_cut_as_the_image_is_and_texts_reach_the_editor() -> None:
    seen: list[Batch] = []

    class Recording(Painter):
        def edit_batch(self, batch: Batch) -> list[EditResult]:
            seen.append(batch)
            return super().edit_batch(batch)

    engine = Engine(replace(SPEC, candidates=1, fit="crop", metrics=()), "cpu")
    engine.editor = Recording.load(PainterParams(), {}, "cpu")
    first = sample("a")
    assert first.source is not None
    engine.edit(
        [replace(first, control=255 - first.source, negative_prompt="grey"), replace(sample("b"), control=None)]
    )
    with_control = next(batch for batch in seen if batch.control is not None)
    assert with_control.control is not None
    assert np.abs(with_control.control.astype(int) + with_control.image - 255).max() <= 1  # each is rounded
    assert with_control.negative_prompt == ["grey"] * 4
    assert next(batch for batch in seen if batch.control is None).negative_prompt is None
