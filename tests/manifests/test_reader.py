"""A manifest is read into rows with unique keys and columns of one type each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch import storage
from retouch.errors import ManifestError
from retouch.manifests import reader
from retouch.manifests.fingerprints import with_fingerprints


def saved(folder: str | Path, columns: dict[str, Any] | pa.Table, name: str = "m.parquet") -> str:
    """Write a manifest file; return its address."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    uri = storage.join(str(folder), name)
    storage.write_bytes(uri, out.getvalue().to_pybytes())
    return uri


def test_a_manifest_is_read_from_any_storage_with_its_images_beside_it(place: str) -> None:
    saved(place, {"key": ["a", "b", "c"], "image": ["i.png", "s3://x/y.png", "/abs.png"], "prompt": ["p", None, ""]})
    table = reader.read(storage.join(place, "m.parquet")).table
    folder = str(Path(place).absolute()) if storage.local_path(place) else place
    assert table["image"].to_pylist() == [f"{folder}/i.png", "s3://x/y.png", "/abs.png"]
    assert table["prompt"].to_pylist() == ["p", None, ""]


def test_files_folders_globs_and_lists_are_read_each_file_once(tmp_path: Path) -> None:
    first = saved(tmp_path, {"key": ["a"], "image": ["x"]}, "in/1.parquet")
    second = saved(tmp_path, {"key": ["b"], "image": ["x"]}, "in/deep/2.parquet")
    third = saved(tmp_path, {"key": ["c"], "image": ["x"]}, "odd[1].parquet")
    for sources, expected in [
        (first, "a"),
        (str(tmp_path / "in"), "ab"),
        (str(tmp_path / "in" / "*.parquet"), "a"),
        (third, "c"),
        ([third, first, str(tmp_path / "in")], "cab"),
    ]:
        assert "".join(reader.read(sources).table["key"].to_pylist()) == expected
    assert reader.read([first, second]).files == (first, second)


def test_an_image_lies_relative_to_its_own_manifest_file(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        saved(tmp_path, {"key": [folder], "image": ["i.png"]}, f"{folder}/m.parquet")
    table = reader.read(str(tmp_path / "*/m.parquet")).table
    assert table["image"].to_pylist() == [f"{tmp_path}/one/i.png", f"{tmp_path}/two/i.png"]


def test_a_relative_manifest_gives_absolute_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, {"key": ["a"], "image": ["i.png"]})
    monkeypatch.chdir(tmp_path)
    assert reader.read("m.parquet").table["image"].to_pylist() == [f"{tmp_path}/i.png"]


def test_keys_come_from_the_row_where_there_are_none_and_stay_when_the_manifest_moves(tmp_path: Path) -> None:
    columns = {"image": ["i.png", "i.png", "j.png"], "prompt": ["a", "b", "a"], "label": [1, 2, 3]}
    here, there = saved(tmp_path, columns), saved(tmp_path / "elsewhere", {**columns, "label": [4, 5, 6]})
    keys = reader.read(here).table["key"].to_pylist()
    assert len(set(keys)) == 3
    assert reader.read(there).table["key"].to_pylist() == keys
    assert reader.read(saved(tmp_path, pa.table(columns).slice(1), "n.parquet")).table["key"].to_pylist() == keys[1:]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"prompt": ["x"]}, r"m\.parquet has no column 'image'; its columns: prompt"),
        ({"img": ["x"]}, r"m\.parquet has no column 'image'; rename 'img' to 'image'; its columns: img"),
        ({"imgae": ["x"]}, r"has no column 'image'; rename 'imgae' to 'image'"),
        ({"image": ["x", "y"], "key": ["a", None]}, "1 rows have no key, first row 1"),
        ({"image": ["x", "y"], "key": ["a", ""]}, "1 rows have no key"),
        ({"image": ["x", "y"], "key": ["a", "a"]}, "1 keys are there more than once: 'a'"),
        ({"image": ["x", "x"]}, "identical rows need the column"),
        ({"image": [1, 2]}, r"m\.parquet: column 'image' is int64; expected string .*binary, or struct<bytes, path>"),
        ({"image": ["x"], "mask": [[1]]}, "column 'mask' is list"),
        ({"image": ["x"], "bbox": ["1,2,3,4"]}, "column 'bbox' is string; expected list of numbers"),
        ({"image": ["x"], "prompt": [3]}, "column 'prompt' is int64; expected string"),
        ({"image": ["x"], "seed": [1.5]}, r"column 'seed': .*truncated"),
        ({"image": ["x"], "seed": [True]}, "column 'seed' is bool; expected integer"),
        ({"image": ["x"], "params": [3]}, r"column 'params' is int64; expected string \(JSON\), struct or map"),
        ({"image": ["x"], "params": [{"a": b"x"}]}, "column 'params': .*bytes"),
        ({"image": ["x"], "width": [1], "input_width": [2]}, "column 'input_width'"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, columns: dict[str, Any], line: str) -> None:
    with pytest.raises(ManifestError, match=line) as caught:
        reader.read(saved(tmp_path, columns))
    assert "\n" not in str(caught.value)


def test_what_is_no_manifest_is_named(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "x.parquet"), b"PAR1 no")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["image", "image"])
    for source, line in [
        (str(tmp_path / "none.parquet"), r"manifest cannot be read: no object at .*none\.parquet"),
        (str(tmp_path / "x.parquet"), r"x\.parquet is not a Parquet file"),
        (str(tmp_path / "*.nothing"), r"no Parquet file at .*\*\.nothing"),
        (str(tmp_path / "empty"), r"manifest cannot be read"),
        ([], "no manifest is given"),
        (saved(tmp_path, twice, "twice.parquet"), "duplicate column names, first 'image'"),
    ]:
        with pytest.raises(ManifestError, match=line):
            reader.read(source)


def test_columns_of_several_files_come_to_one_type(tmp_path: Path) -> None:
    picture = {"bytes": b"png", "path": "p.png"}
    files = [
        saved(tmp_path, {"key": [1], "image": ["u.png"], "label": [1], "bbox": [[1, 2, 3, 4]]}, "1.parquet"),
        saved(tmp_path, {"key": ["b"], "image": [b"raw"], "label": [2.5], "seed": [7]}, "2.parquet"),
        saved(tmp_path, {"key": ["c"], "image": [picture], "label": [None], "seed": [None]}, "3.parquet"),
    ]
    rows = reader.read(files).table.to_pylist()
    assert [row["key"] for row in rows] == ["1", "b", "c"]
    assert [row["image"] for row in rows] == [
        {"bytes": None, "path": f"{tmp_path}/u.png"},
        {"bytes": b"raw", "path": None},
        {"bytes": b"png", "path": f"{tmp_path}/p.png"},
    ]
    assert [row["label"] for row in rows] == [1.0, 2.5, None]
    assert [row["seed"] for row in rows] == [None, 7, None]
    assert rows[0]["bbox"] == [1.0, 2.0, 3.0, 4.0]


def test_files_that_disagree_about_a_column_are_named(tmp_path: Path) -> None:
    files = [saved(tmp_path, {"image": ["x"], "label": [v]}, f"{v}.parquet") for v in (1, "one")]
    with pytest.raises(ManifestError, match=r"column 'label' is int64 in .*1\.parquet but string in .*one\.parquet"):
        reader.read(files)


def test_types_that_other_tools_write_are_taken(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": pa.array(["a", "b"]).dictionary_encode(),
            "image": pa.array(["x", "y"], pa.large_string()),
            "mask": pa.array([b"m", None], pa.large_binary()),
            "exemplar": pa.nulls(2),
            "bbox": pa.array([[0, 0, 1, 1]] * 2, pa.list_(pa.int32(), 4)),
            "seed": pa.array([1.0, float("nan")]),
            "params": pa.array([[("steps", 3)], None], pa.map_(pa.string(), pa.int64())),
            "caption": pa.array(["p", "q"]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "__index_level_0__": [5, 6],
        }
    )
    read = reader.read(saved(tmp_path, table))
    assert read.table.drop_columns(["image"]).to_pylist()[0] == {
        "key": "a",
        "mask": b"m",
        "exemplar": None,
        "bbox": [0.0, 0.0, 1.0, 1.0],
        "seed": 1,
        "params": '{"steps": 3}',
        "caption": "p",
        "nothing": None,
    }
    assert read.table["seed"].to_pylist() == [1, None]
    assert read.caller == pa.schema([("caption", pa.string()), ("nothing", pa.string())])


def test_columns_that_would_hide_results_are_passed_through_under_another_name(tmp_path: Path) -> None:
    columns = {"image": ["x"], "width": [640], "status": ["success"], "fingerprint": ["z"], "mine": [1]}
    read = reader.read(saved(tmp_path, columns))
    assert read.renamed == {"width": "input_width", "status": "input_status", "fingerprint": "input_fingerprint"}
    assert read.caller.names == ["input_width", "input_status", "input_fingerprint", "mine"]
    assert with_fingerprints(read.table, {}).column_names[-1] == "fingerprint"


def test_a_manifest_that_cannot_be_looked_for_is_a_wrong_one(tmp_path: Path) -> None:
    named = saved(tmp_path, {"key": ["a"], "image": ["i.png"]}, os.fsdecode(b"caf\xe9/m.parquet"))
    with pytest.raises(ManifestError, match="the folder's name is not UTF-8, so images have no address; rename it"):
        reader.read(named)
    for source in ("gopher://x/m.parquet", "m" * 300, "a\0b"):
        with pytest.raises(ManifestError, match=r"manifest cannot be (found|read)"):
            reader.read(source)
