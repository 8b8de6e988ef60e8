"""An editor beside what it could be replaced by. No test looks at which is faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from retouch.cli.bench import compare
from retouch.cli.bench.subjects import subject
from retouch.schema import Batch


def test_without_a_clone_the_originals_loop_is_left_out_and_the_record_says_so() -> None:
    records = list(compare.compare(subject("blended_diffusion", "embedded", steps=2), repeats=1))
    ratio, left_out = records
    assert (ratio["slower"], ratio["faster"]) == ("ours, batch 1", "ours, batch 8")
    assert ratio["ratio"] == pytest.approx(ratio["seconds_slower"] / ratio["seconds_faster"], rel=0.05)
    assert "--original" in left_out["left_out"]
    assert "left out" in compare.table(records).splitlines()[-1]


def test_diffusers_pipeline_asks_our_network_as_often_as_our_own_loop() -> None:
    one = subject("paint_by_example", "embedded", params={"sampler": "plms", "steps": 5, "guidance_scale": 5.0})
    seen: list[int] = []
    one.editor.networks.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    theirs = compare.Diffusers(one.editor)
    one.editor.edit_batch(one.batch(1))
    ours = [*seen]
    seen.clear()
    theirs.edit(one.batch(1))
    assert ours == seen == [2] * 6


def test_ways_take_turns_on_rows_of_their_own_and_the_first_turn_is_not_counted() -> None:
    one = subject("diffusionclip", "embedded", steps=2)
    seen: list[tuple[str, tuple[int, ...], int]] = []

    def way(name: str) -> Any:
        def run(batch: Batch) -> None:
            seen.append((name, tuple(batch.seed), torch.get_num_threads()))

        return run

    seconds = compare.alternately(one, {"a": (1, way("a")), "b": (2, way("b"))}, repeats=2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    assert [name for name, *_ in seen] == ["a", "b"] * 3
    rows = [row for _, rows, _ in seen for row in rows]
    assert rows == sorted(set(rows))
    assert {threads for *_, threads in seen} == {1}
