"""``retouch bench engine``: what its records hold. No test looks at how fast anything is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from retouch.cli.app import main
from retouch.cli.bench.compare import compare
from retouch.cli.bench.engine import PARTS, measure, table
from retouch.cli.bench.subjects import EDITORS, subject

pytestmark = pytest.mark.slow

# Passes of the network: 2 of 2 steps, 3 with PLMS's look ahead of DDIM's 2, 1 up and 2 down.
CALLS = {"blended_diffusion": 2, "paint_by_example": 2, "diffusionclip": 3}


@pytest.mark.parametrize("name", EDITORS)
def test_a_record_says_where_the_time_went_and_what_was_computed(name: str) -> None:
    first, second = measure(subject(name, "embedded", steps=2), batches=[1, 2], repeats=2)
    for record, entries in ((first, 1), (second, 2)):
        assert (record["editor"], record["size"], record["batch"], record["repeats"]) == (name, "embedded", entries, 2)
        assert set(record["shares"]) == set(PARTS)
        assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert record["shares"]["unet"] > 0
        assert record["unet_calls"] == CALLS[name]
        assert record["images_per_second"] == pytest.approx(entries / record["seconds"], rel=0.01)
        assert record["seconds_min"] <= record["seconds"] <= record["seconds_max"]
        assert record["of_matrix_rate"] > 0
        assert record["gflops"] > 0
        assert record["matrix_gflops"] > 0
        assert record["peak_mib"] >= record["resting_mib"] > 0
    assert first["gflop_per_image"] == second["gflop_per_image"] > 0


def test_what_an_editor_remembers_of_a_comparison_is_not_left_out_of_the_count() -> None:
    fresh, seen = (subject("diffusionclip", "embedded", steps=2) for _ in range(2))
    list(compare(seen, repeats=1))
    (one,), (other,) = measure(fresh, [1], 1), measure(seen, [1], 1)
    assert one["gflop_per_image"] == other["gflop_per_image"]


def test_only_what_an_editor_has_takes_a_share() -> None:
    (blended,) = measure(subject("blended_diffusion", "embedded", steps=2), [1], 1)
    (exemplar,) = measure(subject("paint_by_example", "embedded", steps=2), [1], 1)
    assert all(blended["shares"][part] > 0 for part in ("unet", "clip", "augmentation", "rest"))
    assert blended["shares"]["vae"] == 0
    assert all(exemplar["shares"][part] > 0 for part in ("unet", "clip", "vae", "rest"))
    assert exemplar["shares"]["augmentation"] == 0


def test_a_network_is_asked_once_a_step_and_no_gradient_of_a_weight_is_computed() -> None:
    one = subject("blended_diffusion", "embedded", steps=2)
    assert not any(weight.requires_grad for part in one.parts.values() for net in part for weight in net.parameters())
    (record,) = measure(one, [1], 1)
    assert record["unet_calls"] == 2


def test_the_command_prints_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--editor", "diffusionclip", "--batch", "1,2", "--steps", "2", "--repeats", "1", "--turns", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "engine", *arguments, "--device", "cpu", "--json"])
    assert ended.value.code in (0, None)
    records: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["batch"] for record in records if "batch" in record] == [1, 2]
    assert [record["slower"] for record in records if "ratio" in record] == ["ours, batch 1"]


def test_a_table_has_a_line_for_each_record_and_for_what_did_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    records = list(measure(subject("diffusionclip", "embedded", steps=2), [1], 1))
    records.append({**records[0], "batch": 64, "error": "out of memory"})
    lines = table(records).splitlines()
    assert len(lines) == 4
    assert "out of memory" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("batch", ["1,x", "0", ""])
def test_a_list_of_batches_that_is_none_is_refused(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "engine", "--batch", batch])
    assert ended.value.code == 2
    assert "1,4,8" in capsys.readouterr().err
