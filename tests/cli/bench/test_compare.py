"""An editor beside what it could be replaced by. No test looks at which is faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from retouch.cli.bench import compare
from retouch.cli.bench.subjects import subject
from retouch.schema import Batch

pytestmark = pytest.mark.slow


def test_ratios_are_of_our_batches_and_of_further_ways_against_each_of_ours() -> None:
    one = subject("blended_diffusion", "embedded", steps=2)
    (ratio,) = compare.compare(one, repeats=1)
    assert (ratio["slower"], ratio["faster"]) == ("ours, batch 1", "ours, batch 8")
    assert ratio["ratio"] == pytest.approx(ratio["seconds_slower"] / ratio["seconds_faster"], rel=0.05)
    records = list(compare.compare(one, repeats=1, others={"theirs": one.editor.edit_batch}))
    assert [(record["slower"], record["faster"]) for record in records] == [
        ("ours, batch 1", "ours, batch 8"),
        ("theirs", "ours, batch 1"),
        ("theirs", "ours, batch 8"),
    ]
    assert len(compare.table(records).splitlines()) == 5


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
