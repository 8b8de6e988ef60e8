"""Exports are read back by their own ecosystems' libraries: the run's pixels, and no row lost unsaid."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch import storage
from retouch.errors import ConfigError, OutputError
from retouch.outputs import results
from retouch.outputs.export.dataset import EXPORT_FILE, ExportRequest, ExportResult, export_dataset
from retouch.outputs.export.shard_writer import Limits

from tests.helpers.datasets import picture, square
from tests.outputs.export.outputs import KEYS, PROMPTS, edited, finished, pixels

FORMATS = ("webdataset", "parquet", "folder")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Six rows, of which the fourth failed."""
    folder = tmp_path_factory.mktemp("exported")
    yield finished(folder, prompts={3: "raise"})
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` keeps what it has read; here, and asks no hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def made(output: str, dest: Path | str, **options: Any) -> ExportResult:
    return export_dataset(ExportRequest(output, str(dest), **options))


def by_the_card(dest: Path, monkeypatch: pytest.MonkeyPatch, block: int = 0) -> Any:
    """What the card's own lines give, run in the folder that holds the dataset."""
    monkeypatch.chdir(dest.parent)
    blocks = re.findall(r"```python\n(.*?)```", (dest / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[block], names)
    return names["dataset"]


def labels() -> list[int]:
    return [row for row in range(6) if row != 3]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_cards_line_gives_every_image_with_the_pixels_that_the_run_made(
    output: str, tmp_path: Path, format_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = made(output, tmp_path / "set", format=format_)
    assert (done.rows, done.exit_code) == (5, 0)
    assert done.text() == "5 rows exported, 1 left out: 1 failed_to_edit"
    rows = list(by_the_card(tmp_path / "set", monkeypatch))
    if format_ == "webdataset":
        rows = [{**row["json"], "image": row["png"]} for row in rows]
    expected = edited(output)
    assert sorted(row["key"] for row in rows) == sorted(expected)
    for row in rows:
        assert np.array_equal(pixels(row["image"]), expected[row["key"]])
        assert row["prompt"] == PROMPTS.get(row["label"], "a red circle")
        assert row["redness"] is not None
        assert row["status"] == "success"


@pytest.mark.parametrize("format_", FORMATS)
def test_pairs_are_what_was_edited_and_what_came_of_it(
    output: str, tmp_path: Path, format_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(output, tmp_path / "set", format=format_, layout="pairs")
    rows = list(by_the_card(tmp_path / "set", monkeypatch))
    if format_ == "webdataset":
        names = {"source.png": "original_image", "mask.png": "mask_image", "edited.png": "edited_image"}
        names |= {"txt": "edit_prompt"}
        rows = [{**row["json"], **{column: row[member] for member, column in names.items()}} for row in rows]
    expected = edited(output)
    assert sorted(row["label"] for row in rows) == labels()
    for row in rows:
        source, after = pixels(row["original_image"]), pixels(row["edited_image"])
        mask = np.asarray(row["mask_image"])
        assert np.array_equal(source, picture(row["label"]))
        assert np.array_equal(mask, square())
        assert np.array_equal(after, expected[row["key"]])
        assert np.array_equal(after[mask == 0], source[mask == 0]), "bit for bit outside the mask, in the export too"
        assert row["edit_prompt"] == PROMPTS.get(row["label"], "a red circle")


# In a process of its own: the library leaves its files open.
BY_WEBDATASET = """
import json, pathlib, re, numpy
exec(re.findall(r"```python\\n(.*?)```", pathlib.Path("set/README.md").read_text(), re.DOTALL)[1])
rows = list(dataset)
numpy.savez("read.npz", *[numpy.asarray(row["png"].convert("RGB")) for row in rows])
print(json.dumps([[row["__key__"], row["json"]["key"]] for row in rows]))
"""


def test_webdatasets_own_library_reads_all_shards_in_their_order(output: str, tmp_path: Path) -> None:
    done = made(output, tmp_path / "set", format="webdataset", limits=Limits(rows=2))
    assert [(shard.name, shard.rows) for shard in done.shards] == [
        ("shard-000000.tar", 2),
        ("shard-000001.tar", 2),
        ("shard-000002.tar", 1),
    ]
    read = subprocess.run(
        [sys.executable, "-c", BY_WEBDATASET], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    keys = json.loads(read.stdout)
    expected = edited(output)
    assert [key for _, key in keys] == sorted(expected)
    assert len({name for name, _ in keys}) == 5
    with np.load(tmp_path / "read.npz") as arrays:
        assert all(np.array_equal(arrays[f"arr_{i}"], expected[key]) for i, (_, key) in enumerate(keys))


def test_duckdb_reads_the_parquet_files_and_the_images_in_them(output: str, tmp_path: Path) -> None:
    done = made(output, tmp_path / "set", format="parquet", limits=Limits(rows=3))
    assert [shard.rows for shard in done.shards] == [3, 2]
    query = "select key, image.bytes, image.path, label from read_parquet(?) order by key"
    rows = duckdb.execute(query, [str(tmp_path / "set/data/*.parquet")]).fetchall()
    expected = edited(output)
    assert [key for key, *_ in rows] == sorted(expected)
    for key, data, path, _ in rows:
        assert np.array_equal(pixels(Image.open(io.BytesIO(data))), expected[key])
        assert path.endswith(".png")
    assert str(pq.read_schema(tmp_path / "set/data/train-00000.parquet").field("label").type) == "int16"


def test_an_export_on_s3_of_tar_shards_on_s3_is_read_from_there(
    moto_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # which holds for all that is remote
    output = finished(tmp_path, 5, sink="tar", output=f"{moto_s3}/run")
    done = made(output, f"{moto_s3}/set", format="parquet", layout="pairs")
    assert (done.rows, done.exit_code) == (5, 0)
    found = datasets.load_dataset("parquet", data_files=f"{moto_s3}/set/data/*.parquet", split="train")
    expected = edited(output)
    assert {row["key"] for row in found} == set(expected)
    assert all(np.array_equal(pixels(row["edited_image"]), expected[row["key"]]) for row in found)
    assert json.loads(storage.read_bytes(f"{moto_s3}/set/{EXPORT_FILE}"))["rows"] == 5


def test_images_of_earlier_nights_leave_with_tonights(tmp_path: Path) -> None:
    first = finished(tmp_path, 3, output=str(tmp_path / "nights/1"), ray={"batch_size": 1})
    second = finished(tmp_path, 5, output=str(tmp_path / "nights/2"), ray={"batch_size": 1}, carry=first)
    assert results.read(second, ["carried_from"])["carried_from"].to_pylist().count(first) == 3
    done = made(second, tmp_path / "set", format="folder", layout="pairs")
    assert (done.rows, done.exit_code) == (5, 0)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_export_again_gives_the_same_bytes_and_replaces_only_what_an_export_made(
    output: str, tmp_path: Path, format_: Any
) -> None:
    def files() -> dict[str, str]:
        found = (path for path in (tmp_path / "set").rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    made(output, tmp_path / "set", format=format_, limits=Limits(rows=1))
    before = files()
    with pytest.raises(ConfigError, match="holds an earlier export; give --overwrite"):
        made(output, tmp_path / "set", format=format_)
    (tmp_path / "set/notes.txt").write_text("a person's")
    made(output, tmp_path / "set", format=format_, overwrite=True, where="label < 2")
    assert len(files()) - 1 < len(before), "what the larger export had put down is gone"
    made(output, tmp_path / "set", format=format_, overwrite=True, limits=Limits(rows=1))
    assert {name: digest for name, digest in files().items() if name != "set/notes.txt"} == before


def test_a_folder_that_no_export_made_and_the_runs_own_are_refused(output: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that no export wrote; give another folder"):
        made(output, tmp_path / "set", format="parquet", overwrite=True)
    with pytest.raises(ConfigError, match="is in the run's own output"):
        made(output, f"{output}/export", format="parquet")
    with pytest.raises(OutputError, match="holds no run"):
        made(str(tmp_path / "set"), tmp_path / "other", format="parquet")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Five rows: the first image is another one, the second is gone."""
    output = finished(tmp_path, 5)
    rows = {row["key"]: row["output"] for row in results.read(output, ["key", "output"]).to_pylist()}
    (Path(output) / rows[KEYS[0]]).write_bytes((Path(output) / rows[KEYS[2]]).read_bytes())
    (Path(output) / rows[KEYS[1]]).unlink()
    return output


@pytest.mark.parametrize("format_", FORMATS)
def test_an_image_that_is_gone_or_another_one_is_named_and_the_others_leave(
    broken: str, tmp_path: Path, format_: Any
) -> None:
    done = made(broken, tmp_path / "set", format=format_)
    assert (done.rows, done.exit_code) == (3, 1)
    assert done.text() == "3 rows exported, 2 left out: 1 image is another, 1 image missing"
    assert {row.key: row.reason for row in done.skipped} == {KEYS[0]: "image is another", KEYS[1]: "image missing"}
    said = json.loads((tmp_path / "set" / EXPORT_FILE).read_text())
    assert set(said["lacking"]) == {KEYS[0], KEYS[1]}
    assert said["state"] == "finished"


def test_a_pair_whose_source_or_prompt_is_not_what_was_edited_does_not_leave(tmp_path: Path) -> None:
    output = finished(tmp_path, 5)
    files = tmp_path / "files"
    shutil.copy(files / "4.png", files / "0.png")
    (files / "1.png").unlink()
    manifest = pq.read_table(tmp_path / "manifest.parquet")
    prompts = [*manifest["prompt"].to_pylist()[:2], "something else", *manifest["prompt"].to_pylist()[3:]]
    place = manifest.column_names.index("prompt")
    pq.write_table(manifest.set_column(place, "prompt", pa.array(prompts)), tmp_path / "manifest.parquet")
    done = made(output, tmp_path / "pairs", format="parquet", layout="pairs")
    assert (done.rows, done.exit_code) == (2, 1)
    assert [row.key for row in done.skipped] == KEYS[:3], "in the manifest's order"
    assert {row.reason for row in done.skipped} == {"source not as edited"}
    plain = made(output, tmp_path / "edited", format="folder")
    assert (plain.rows, plain.exit_code) == (5, 0), "the images are those that were made"
    assert "no prompt for 3 rows" in plain.notes[0]
    lines = [json.loads(line) for line in (tmp_path / "edited/metadata.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines if line["prompt"] is None} == set(KEYS[:3])


def test_without_its_manifest_a_run_gives_images_but_no_pairs(tmp_path: Path) -> None:
    output = finished(tmp_path, 3)
    (tmp_path / "manifest.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(ConfigError, match=r"layout pairs needs the manifest: .*give its location with --manifest"):
        made(output, tmp_path / "pairs", format="parquet", layout="pairs")
    assert not (tmp_path / "pairs").exists()
    done = made(output, tmp_path / "edited", format="parquet")
    assert (done.rows, done.exit_code) == (3, 0)
    assert "no prompts" in done.notes[0]
    again = made(output, tmp_path / "pairs", format="parquet", layout="pairs", manifest=str(tmp_path / "moved.parquet"))
    assert (again.rows, again.exit_code) == (3, 0)


def test_an_exported_png_says_what_made_it_and_without_provenance_is_the_runs_own_file(
    output: str, tmp_path: Path
) -> None:
    def first(**options: Any) -> tuple[bytes, dict[str, Any]]:
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        made(output, tmp_path / "set", format="folder", **options)
        line = json.loads((tmp_path / "set/metadata.jsonl").read_text().splitlines()[0])
        return (tmp_path / "set" / line["file_name"]).read_bytes(), line

    plain, line = first(provenance=False)
    assert hashlib.sha256(plain).hexdigest() == line["sha256"]
    stamped, _ = first()
    texts = Image.open(io.BytesIO(stamped)).text  # type: ignore[attr-defined]
    assert texts["retouch:job"] == "painted"
    assert texts["retouch:key"] == line["key"]
    assert texts["retouch:seed"] == str(line["seed"])
    assert "compositeWithTrainedAlgorithmicMedia" in texts["XML:com.adobe.xmp"]


def test_columns_are_those_that_are_asked_for(output: str, tmp_path: Path) -> None:
    made(output, tmp_path / "set", format="parquet", columns=("label",))
    assert pq.read_schema(tmp_path / "set/data/train-00000.parquet").names == ["image", "key", "label"]


def test_shards_are_cut_by_bytes_too(output: str, tmp_path: Path) -> None:
    whole = made(output, tmp_path / "a", format="webdataset")
    assert len(whole.shards) == 1
    cut = made(output, tmp_path / "b", format="webdataset", limits=Limits(bytes=whole.shards[0].bytes // 2))
    assert len(cut.shards) >= 2
    assert all(shard.bytes <= whole.shards[0].bytes for shard in cut.shards)
    alone = made(output, tmp_path / "c", format="parquet", limits=Limits(bytes=1))
    assert [shard.rows for shard in alone.shards] == [1] * 5, "no row is cut, however small a file may be"
