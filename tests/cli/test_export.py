"""``retouch export``: options to a dataset, counts on the terminal, exit codes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from retouch.cli.app import main
from retouch.outputs import results

from tests.outputs.export.outputs import KEYS, finished


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exported")
    yield finished(folder, 4, {3: "raise"})
    shutil.rmtree(folder)


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", *arguments])
    return int(end.value.code or 0)


def test_options_choose_rows_and_columns_and_the_count_is_said(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = str(tmp_path / "set")
    where = "label >= 1 and status = 'success'"
    assert ended(output, dest, "--format", "parquet", "--where", where, "--columns", "label, redness") == 0
    said = capsys.readouterr()
    assert "2 rows exported, 2 left out: 1 failed_to_edit, 1 not --where" in said.out
    assert "data/train-00000.parquet: 2 rows" in said.err
    table = pq.read_table(tmp_path / "set/data")
    assert table.column_names == ["image", "key", "label", "redness"]
    assert sorted(table["label"].to_pylist()) == [1, 2]


def test_an_image_that_is_missing_is_named_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = finished(tmp_path, 3)
    rows = results.read(output, ["key", "output"]).to_pylist()
    (Path(output) / next(row["output"] for row in rows if row["key"] == KEYS[0])).unlink()
    assert ended(output, str(tmp_path / "set"), "--format", "folder") == 1
    said = capsys.readouterr()
    assert f"left out: {KEYS[0]}: image missing: no image at " in said.err
    assert "2 rows exported, 1 left out: 1 image missing" in said.out


def test_what_cannot_be_meant_ends_with_2_and_leaves_nothing(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "set"
    assert ended(output, str(dest), "--format", "parquet", "--where", "clip > 1") == 2
    assert ended(output, str(dest), "--format", "parquet", "--status", "filtered") == 2
    assert ended(output, str(dest), "--format", "tar") == 2
    assert ended(output, str(dest)) == 2
    assert not dest.exists()
    assert "retouch: --status 'filtered': rows of this status have no image" in capsys.readouterr().err
