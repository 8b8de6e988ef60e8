"""Folders and globs of a manifest: hidden files are left out, folder names are columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch import storage
from retouch.manifests.reader import read

STALE = ("_temporary/0/m.parquet", ".ipynb_checkpoints/m.parquet", "@eaDir/m.parquet", "_delta_log/m.parquet")


def save(folder: str, name: str, rows: list[str], **columns: list[object]) -> None:
    table = pa.table({"key": rows, "image": [f"{row}.png" for row in rows], **columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(storage.join(folder, name), sink.getvalue().to_pybytes())


def keys(source: str | list[str]) -> list[str]:
    found: list[str] = read(source).table["key"].to_pylist()
    return found


def test_files_of_other_programs_in_a_folder_are_no_rows(place: str) -> None:
    save(place, "a.parquet", ["a"])
    save(place, "deep/b.parquet", ["b"])
    for name in (*STALE, "_metadata.parquet", "deep/.m.parquet"):
        save(place, name, ["stale"])
    assert keys(place) == ["a", "b"]


def test_a_glob_finds_them_only_if_it_names_them(tmp_path: Path) -> None:
    for name in ("a.parquet", "deep/b.parquet", *STALE):
        save(str(tmp_path), name, [name])
    assert keys(f"{tmp_path}/**/*.parquet") == ["a.parquet", "deep/b.parquet"]
    assert keys(f"{tmp_path}/_temporary/*/*.parquet") == [STALE[0]]
    assert keys(f"{tmp_path}/{STALE[0]}") == [STALE[0]]


def test_a_folder_below_a_hidden_one_is_read_if_it_is_the_manifest(tmp_path: Path) -> None:
    save(str(tmp_path / "_work"), "m.parquet", ["a"])
    assert keys(str(tmp_path / "_work")) == ["a"]


@pytest.mark.parametrize("glob", ["", "/*/*/*.parquet"])
def test_hive_partitions_are_columns(glob: str, tmp_path: Path) -> None:
    save(str(tmp_path), "day=2026-11-25/part=1/m.parquet", ["a", "b"])
    save(str(tmp_path), "day=a%20b/part=12/m.parquet", ["c"])
    save(str(tmp_path), "day=__HIVE_DEFAULT_PARTITION__/part=3/m.parquet", ["d"], part=[99])
    table = read(f"{tmp_path}{glob}").table.sort_by("key")
    assert table.schema.field("day").type == pa.string()
    assert table.schema.field("part").type == pa.int64()
    assert table["day"].to_pylist() == ["2026-11-25", "2026-11-25", "a b", None]
    assert table["part"].to_pylist() == [1, 1, 12, 99]  # the file's own column comes first


def test_a_partition_may_be_a_request_column_and_codes_with_zeros_stay_text(tmp_path: Path) -> None:
    save(str(tmp_path), "prompt=a cat/zip=01234/m.parquet", ["a"])
    table = read(str(tmp_path)).table
    assert table["prompt"].to_pylist() == ["a cat"]
    assert table["zip"].to_pylist() == ["01234"]
