"""A folder becomes a manifest: matched by name, complete or not written, and movable."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from retouch import storage
from retouch.errors import ManifestError
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.from_folder import ABSOLUTE, from_folder

from tests.helpers.datasets import picture, png, square


def fill(folder: str, *names: str, pixels: np.ndarray | None = None) -> str:
    for number, name in enumerate(names):
        storage.write_bytes(f"{folder}/{name}", png(picture(number) if pixels is None else pixels))
    return folder


def rows_of(address: str) -> list[dict[str, Any]]:
    return sorted(reader.read(address).table.to_pylist(), key=lambda row: row["key"])


def test_images_masks_and_exemplars_of_one_name_make_a_row_that_an_editor_can_read(place: str) -> None:
    images = fill(f"{place}/set/images", "cat.png", "more/dog.JPG.png")
    masks = fill(f"{place}/set/masks", "cat.webp", "more/dog.JPG.tiff", pixels=square())
    exemplars = fill(f"{place}/elsewhere", "cat.png", "more/dog.JPG.png")
    made = from_folder(images, f"{place}/set/rows.parquet", masks=masks, exemplars=exemplars, prompt="a red circle")
    assert (made.rows, made.problems, made.notes) == (2, {}, [ABSOLUTE])
    rows = rows_of(f"{place}/set/rows.parquet")
    assert [row["key"] for row in rows] == ["cat", "more/dog.JPG"]
    for row in rows:
        sample = decode({**row, "fingerprint": ""}, DecodeSpec(frozenset({"mask", "exemplar", "prompt"})))
        assert sample.failure is None
        assert np.array_equal(sample.mask, square() == 255)
        assert sample.prompt == "a red circle"
        assert sample.exemplar is not None


def test_a_manifest_and_its_folder_can_move_together(tmp_path: Path) -> None:
    fill(f"{tmp_path}/here/images", "cat.png")
    made = from_folder(f"{tmp_path}/here/images", f"{tmp_path}/here/rows.parquet", bbox=(1, 2, 9, 8))
    assert not made.notes
    assert pq.read_table(tmp_path / "here/rows.parquet").to_pylist() == [
        {"key": "cat", "image": "images/cat.png", "bbox": [1.0, 2.0, 9.0, 8.0]}
    ]
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert storage.exists(rows_of(f"{tmp_path}/there/rows.parquet")[0]["image"])


def test_masks_beside_their_images_are_told_apart_by_what_they_end_with(tmp_path: Path) -> None:
    folder = fill(str(tmp_path), "cat.png", "cat-mask.png", "dog.png", "dog-mask.png", "notes-mask.png.txt")
    with pytest.raises(ManifestError, match="give a mask_suffix to distinguish them"):
        from_folder(folder, f"{folder}/rows.parquet", masks=folder)
    from_folder(folder, f"{folder}/rows.parquet", masks=f"{folder}/", mask_suffix="-mask")
    assert [Path(row["mask"]).name for row in rows_of(f"{folder}/rows.parquet")] == ["cat-mask.png", "dog-mask.png"]


def test_files_without_a_partner_are_named_and_nothing_is_written_unless_they_are_left_out(tmp_path: Path) -> None:
    images = fill(f"{tmp_path}/images", "a.png", "b.png", "c.png")
    masks = fill(f"{tmp_path}/masks", "a.png", "z.png")
    output = f"{tmp_path}/rows.parquet"
    made = from_folder(images, output, masks=masks)
    assert made.rows == 0
    assert {what: [Path(file).name for file in files] for what, files in made.problems.items()} == {
        "images without mask": ["b.png", "c.png"],
        "masks without image": ["z.png"],
    }
    assert not Path(output).exists()
    allowed = from_folder(images, output, masks=masks, allow_unmatched=True)
    assert (allowed.rows, allowed.problems) == (1, made.problems)
    assert [row["key"] for row in rows_of(output)] == ["a"], "never edited whole for want of a mask"


def test_a_table_of_prompts_gives_a_row_a_line_with_its_other_columns(tmp_path: Path) -> None:
    images = fill(f"{tmp_path}/images", "a.png", "b.png", "c.png")
    (tmp_path / "prompts.csv").write_text(
        'image,prompt,seed,wanted\na.png,a cat,3,animal\nb,"a dog, or\ntwo",4,animal\na,123,5,\nz.png,nothing,6,none\n'
    )
    output = f"{tmp_path}/rows.parquet"
    refused = from_folder(images, output, prompts=f"{tmp_path}/prompts.csv")
    assert {what: len(files) for what, files in refused.problems.items()} == {
        "prompts without image": 1,
        "images without prompt": 1,
    }
    from_folder(images, output, prompts=f"{tmp_path}/prompts.csv", allow_unmatched=True)
    rows = [{name: row[name] for name in ("key", "prompt", "seed", "wanted")} for row in rows_of(output)]
    assert rows == [
        {"key": "a-1", "prompt": "a cat", "seed": 3, "wanted": "animal"},
        {"key": "a-2", "prompt": "123", "seed": 5, "wanted": ""},
        {"key": "b", "prompt": "a dog, or\ntwo", "seed": 4, "wanted": "animal"},
    ]


def test_keys_of_ones_own_stand(tmp_path: Path) -> None:
    images = fill(f"{tmp_path}/images", "a.png", "b.png")
    (tmp_path / "p.csv").write_text("key,image,prompt\n007,a,x\n008,b,y\n")
    from_folder(images, f"{tmp_path}/rows.parquet", prompts=f"{tmp_path}/p.csv")
    assert [row["key"] for row in rows_of(f"{tmp_path}/rows.parquet")] == ["007", "008"]


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("file,prompt\na,b\n", "has no column 'image'; its columns: file, prompt"),
        ("image\na\n", "has no column 'prompt'"),
        ("image,prompt,mask\na,b,c\n", "has a column 'mask', which is not text"),
        ("image,prompt\na\n", "is not a CSV file"),
        ("", "is not a CSV file"),
    ],
)
def test_a_table_that_is_none_of_prompts_is_refused(csv: str, message: str, tmp_path: Path) -> None:
    images = fill(f"{tmp_path}/images", "a.png")
    (tmp_path / "p.csv").write_text(csv)
    with pytest.raises(ManifestError, match=message):
        from_folder(images, f"{tmp_path}/rows.parquet", prompts=f"{tmp_path}/p.csv")


def test_what_makes_no_manifest_is_refused(tmp_path: Path) -> None:
    output = f"{tmp_path}/rows.parquet"
    with pytest.raises(ManifestError, match=f"no folder at {tmp_path}/none"):
        from_folder(f"{tmp_path}/none", output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"no image in .*/empty; looked for names that end with \.png"):
        from_folder(f"{tmp_path}/empty", output)
    fill(f"{tmp_path}/two", "a.png", "a.jpg")
    with pytest.raises(ManifestError, match="1 images with two suffixes, first 'a'"):
        from_folder(f"{tmp_path}/two", output)
    images, masks = fill(f"{tmp_path}/images", "a.png"), fill(f"{tmp_path}/masks", "b.png")
    with pytest.raises(ManifestError, match=r"no image of .*/images has a match in every folder"):
        from_folder(images, output, masks=masks, allow_unmatched=True)
    with pytest.raises(ManifestError, match="give one text for all rows, or a CSV"):
        from_folder(images, output, prompt="a", prompts="b.csv")
    with pytest.raises(ManifestError, match=r"no file at .*/none\.csv"):
        from_folder(images, output, prompts=f"{tmp_path}/none.csv")
