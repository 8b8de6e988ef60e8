"""A manifest's description has every column with its meaning, and no cell in full."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch.errors import ManifestError
from retouch.manifests import deferred_images
from retouch.manifests.describe import MEANINGS, OTHERS, columns_table, describe_manifest
from retouch.schema import REQUEST_COLUMNS

from tests import ROOT


def test_every_column_that_has_a_meaning_says_it() -> None:
    assert tuple(sorted(MEANINGS)) == tuple(sorted(REQUEST_COLUMNS))
    table = columns_table()
    assert table.count("\n") == len(REQUEST_COLUMNS) + 2
    assert "| `bbox` | list of numbers x0, y0, x1, y1 | x0, y0, x1, y1 in pixels" in table


def test_a_shipped_manifest_is_described_with_its_counts_its_meanings_and_its_first_rows() -> None:
    found = describe_manifest(str(ROOT / "manifests/shapes.parquet"), first=2)
    assert (found.rows, len(found.files), len(found.first)) == (32, 1, 2)
    columns = {column.name: column for column in found.columns}
    assert (columns["key"].filled, columns["key"].distinct) == (32, 32)
    assert columns["image"].type == "struct of bytes and path"
    assert columns["wanted_shape"].meaning == OTHERS
    text = found.text()
    assert "shapes-000" in text
    assert "bytes inside)" in text
    assert "32 filled, 32 different; string; unique name of the row" in text


def test_long_cells_are_cut_gaps_are_counted_and_renamed_columns_are_said(tmp_path: Path) -> None:
    table = pa.table(
        {"image": ["a.png", "b.png"], "prompt": ["long " * 90, None], "width": [1, 2], "raw": [b"x", b"yz"]}
    )
    pq.write_table(table, tmp_path / "m.parquet")
    found = describe_manifest(str(tmp_path / "m.parquet"), first=1)
    columns = {column.name: column for column in found.columns}
    assert (columns["prompt"].filled, columns["raw"].distinct) == (1, 2)
    assert len(found.first[0]["prompt"]) < 60
    assert "width is renamed to input_width" in found.text()
    assert "1 bytes" in found.text()


def test_images_that_stay_in_their_files_are_described_as_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    near = describe_manifest(str(ROOT / "manifests/shapes.parquet"))
    monkeypatch.setattr(deferred_images, "DEFER_FROM", 0)
    far = describe_manifest(str(ROOT / "manifests/shapes.parquet"))
    assert far.first == near.first
    assert [(column.name, column.type, column.filled) for column in far.columns] == [
        (column.name, column.type, column.filled) for column in near.columns
    ]


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no Parquet file|cannot be read"):
        describe_manifest(str(tmp_path / "none"))
