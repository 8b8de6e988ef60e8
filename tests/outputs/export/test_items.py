"""Rows are fetched a few at a time, shards once, and none leaves unchecked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from retouch import storage
from retouch.imaging import codec
from retouch.manifests import deferred_images, reader, row_sets
from retouch.outputs import results
from retouch.outputs.export import items as module
from retouch.outputs.export.items import Item, RunSource, read_items
from retouch.outputs.export.row_filter import Choice, choose_rows
from retouch.outputs.run_record import read_run

from tests.helpers.datasets import picture, png
from tests.outputs.export.outputs import KEYS, finished


def chosen(output: str) -> Choice:
    return choose_rows(results.read(output), row_sets.empty(), row_sets.empty())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file was read."""
    found: Counter[str] = Counter()
    whole = storage.read_bytes

    def counted(uri: str) -> bytes:
        found[uri] += "/images/" in uri
        return whole(uri)

    monkeypatch.setattr(storage, "read_bytes", counted)
    return found


def test_no_more_rows_are_in_memory_than_are_asked_for_at_once(
    tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = finished(tmp_path, 6)
    monkeypatch.setattr(module, "AHEAD", 2)
    choice = chosen(output)
    read.clear()
    leaving = read_items(RunSource(output, read_run(output)), choice, "edited")
    for number in (1, 2, 3):
        assert len(next(leaving)) == 2
        assert read.total() == 2 * number
    assert next(leaving, None) is None


def test_a_shard_is_read_once_for_all_its_rows(tmp_path: Path, read: Counter[str]) -> None:
    output = finished(tmp_path, 6, sink="tar")
    choice = chosen(output)
    read.clear()
    found = [item for some in read_items(RunSource(output, read_run(output)), choice, "edited") for item in some]
    assert [item.key for item in found] == choice.rows["key"].to_pylist()
    assert all(isinstance(item, Item) for item in found)
    assert sorted(times for times in read.values() if times) == [1, 1], "blocks of three rows"


def test_a_source_of_another_size_or_other_pixels_outside_the_mask_is_no_pair(tmp_path: Path) -> None:
    output = finished(tmp_path, 2)
    table = reader.read(str(tmp_path / "manifest.parquet")).table
    (tmp_path / "files/0.png").write_bytes((tmp_path / "files/1.png").read_bytes())
    choice = chosen(output)
    found = [item for some in read_items(RunSource(output, read_run(output), table), choice, "pairs") for item in some]
    assert len(found) == 2
    lacking = [item for item in found if not isinstance(item, Item)]
    assert [item.reason for item in lacking] == ["source not as edited"]
    assert "px outside the mask differ now" in lacking[0].detail


def test_pairs_of_a_manifest_that_no_memory_holds_are_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_images, "DEFER_FROM", 1)
    monkeypatch.setattr(module, "AHEAD", 2)
    pictures = [png(picture(number)) for number in range(5)]
    output = finished(tmp_path, 5, image=pictures)
    table = reader.read(str(tmp_path / "manifest.parquet"), defer_images=True).table
    assert deferred_images.FILE in table.column_names
    leaving = read_items(RunSource(output, read_run(output), table), chosen(output), "pairs")
    found = {item.key: item for some in leaving for item in some if isinstance(item, Item)}
    sources = {key: codec.decode_image(item.files["source"]).pixels for key, item in found.items()}
    assert list(sources) == KEYS[:5], "in the manifest's order"
    assert all(np.array_equal(sources[key], picture(number)) for number, key in enumerate(KEYS[:5]))
