"""Samples by number: the same in any thread and worker, and every unusable row named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.errors import ManifestError
from retouch.jobs.train_params import TrainParams
from retouch.training.exemplar.data import Samples, read_rows, row_of, worker_batches
from retouch.training.exemplar.examples import Sizes
from retouch.training.exemplar.task import UNREADABLE, WITHOUT_BOX

from tests.training.exemplar.tiny import write_rows


def samples(folder: Path, count: int = 6, threads: int = 1, **params: Any) -> Samples:
    path = folder / "boxes.parquet"
    if not path.exists():
        write_rows(folder, count)
    return Samples(read_rows(str(path)).table, TrainParams(jitter=1, **params), Sizes(16, 28), seed=5, threads=threads)


@given(st.integers(0, 2**31), st.integers(1, 50), st.integers(0, 5))
def test_every_row_comes_once_an_epoch(seed: int, rows: int, epoch: int) -> None:
    numbers = range(epoch * rows, (epoch + 1) * rows)
    assert sorted(row_of(seed, number, rows) for number in numbers) == list(range(rows))


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_workers_share_a_step_without_gap_or_overlap(first: int, workers: int, batch: int, accumulate: int) -> None:
    batches = [worker_batches(first, worker, workers, batch, accumulate) for worker in range(workers)]
    assert all(len(part) == batch for mine in batches for part in mine)
    taken = sorted(number for mine in batches for part in mine for number in part)
    assert taken == list(range(first, first + workers * batch * accumulate))


def test_a_sample_is_the_same_alone_and_among_others_and_with_many_threads(tmp_path: Path) -> None:
    alone, crowd = samples(tmp_path), samples(tmp_path, threads=4)
    crowd.prefetch(range(20))
    for number, made in zip(range(20), crowd.take(range(20)), strict=True):
        again = alone.make(number)
        assert made.rows == again.rows
        assert torch.equal(made.example.target, again.example.target)
        assert torch.equal(made.example.keep, again.example.keep)
        assert torch.equal(made.example.reference, again.example.reference)


def test_a_row_is_cut_differently_in_the_next_epoch(tmp_path: Path) -> None:
    found = samples(tmp_path, count=1)
    assert not torch.equal(found.make(0).example.reference, found.make(1).example.reference)


def test_a_row_that_cannot_be_read_is_named_and_another_takes_its_place(tmp_path: Path) -> None:
    write_rows(tmp_path, 6)
    (tmp_path / "files" / "2.png").write_bytes(b"no image")
    (tmp_path / "files" / "4.png").unlink()
    made = [samples(tmp_path).make(number) for number in range(6)]
    problems = {key: found for one in made for key, found in one.rows.items() if found}
    assert {key: found.kind for key, found in problems.items()} == {"row-002": UNREADABLE, "row-004": UNREADABLE}
    assert "not an image file" in problems["row-002"].reason
    assert "4.png" in problems["row-004"].reason
    assert all(list(one.rows.values())[-1] is None for one in made)


def test_rows_without_a_usable_box_are_passed_over_as_such(tmp_path: Path) -> None:
    table = pq.read_table(write_rows(tmp_path, 3))
    boxes = [[[0.2, 0.2, 0.7, 0.8]], None, [[0.0, 0.0, 1.0, 1.0], []]]
    kind = pa.list_(pa.list_(pa.float64()))
    pq.write_table(table.set_column(2, "boxes", pa.array(boxes, kind)), tmp_path / "boxes.parquet")
    found = {key: value for number in range(3) for key, value in samples(tmp_path).make(number).rows.items()}
    assert found["row-000"] is None
    assert found["row-001"].kind == found["row-002"].kind == WITHOUT_BOX


def test_a_manifest_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    for path in (tmp_path / "files").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ManifestError, match=r"16 rows tried, none usable: row-00.: image file is empty"):
        samples(tmp_path).take([0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column 'boxes'"),
        ({"boxes": pa.array([[1.0, 2.0, 3.0, 4.0]])}, "expected a list of lists of numbers"),
        ({"boxes": pa.array(["1 2 3 4"])}, "expected a list of lists of numbers"),
    ],
)
def test_a_manifest_without_lists_of_boxes_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table({"image": ["a.png"], **columns}), tmp_path / "boxes.parquet")
    with pytest.raises(ManifestError, match=message):
        read_rows(str(tmp_path / "boxes.parquet"))


def test_boxes_of_any_number_and_list_type_are_read(tmp_path: Path) -> None:
    kind = pa.large_list(pa.list_(pa.int32(), 4))
    table = pa.table({"image": ["a.png"], "boxes": pa.array([[[1, 2, 30, 40], [5, 6, 70, 80]]], kind)})
    pq.write_table(table, tmp_path / "boxes.parquet")
    read = read_rows(str(tmp_path / "boxes.parquet")).table["boxes"].to_pylist()
    np.testing.assert_array_equal(read[0], [[1, 2, 30, 40], [5, 6, 70, 80]])
