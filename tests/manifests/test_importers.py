from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from retouch.cli.app import app
from retouch.errors import ManifestError
from retouch.execution.edit import run
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.importers import coco, cocoee, openimages
from typer.testing import CliRunner

from tests.helpers.datasets import painter_job, picture, png, square

AREAS = (0.02, 0.8)


def benchmark(folder: Path, ids: list[int], leave_out: str = "") -> str:
    """A COCOEE folder."""
    folder.mkdir()
    np.save(folder / "id_list.npy", np.array(ids, np.int64))
    for name, pixels in (
        ("GT_3500/{}_GT", picture(0)),
        ("Ref_3500/{}_ref", picture(1)),
        ("Mask_bbox_3500/{}_mask", square()),
    ):
        for number in ids:
            path = folder / f"{name.format(f'{number:012d}')}.png"
            path.parent.mkdir(exist_ok=True)
            if leave_out not in path.name or not leave_out:
                path.write_bytes(png(pixels))
    return str(folder)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_cocoee_becomes_a_manifest_whose_white_is_edited(tmp_path: Path) -> None:
    imported = cocoee(benchmark(tmp_path / "bench", [283, 900100376112]), str(tmp_path / "m.parquet"))
    assert (imported.rows, imported.problems) == (2, {})
    table = reader.read(str(tmp_path / "m.parquet")).table
    assert table["key"].to_pylist() == ["000000000283", "900100376112"]
    request = {**table.to_pylist()[0], "fingerprint": ""}
    sample = decode(request, DecodeSpec(frozenset({"mask", "exemplar"})))
    assert sample.failure is None
    assert np.array_equal(sample.mask, square() == 255)
    assert np.array_equal(sample.exemplar, picture(1))


def test_files_of_cocoee_that_are_missing_are_named_and_their_rows_fail_in_a_run(tmp_path: Path) -> None:
    bench = benchmark(tmp_path / "bench", [1, 2, 3], leave_out="2_mask")
    out = tmp_path / "m.parquet"
    imported = cocoee(bench, str(out))
    assert imported.problems["files are missing"] == [f"{bench}/Mask_bbox_3500/000000000002_mask.png"]
    assert imported.rows == 3
    summary = run(painter_job(tmp_path, out, max_failure_rate=1.0), executor="local")
    assert (summary.statuses["success"], summary.statuses["failed_to_load"]) == (2, 1)


def test_what_is_no_benchmark_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no file at .*id_list\.npy"):
        cocoee(str(tmp_path), str(tmp_path / "m.parquet"))
    np.save(tmp_path / "id_list.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestError, match=r"id_list\.npy holds no array of ids"):
        cocoee(str(tmp_path), str(tmp_path / "m.parquet"))
    np.save(tmp_path / "id_list.npy", np.zeros((2, 2)))
    with pytest.raises(ManifestError, match="not a list of integers"):
        cocoee(str(tmp_path), str(tmp_path / "m.parquet"))


def annotations(folder: Path, boxes: list[list[float]], **more: Any) -> str:
    """COCO's JSON of two images of 100 x 50, the boxes on them in turn."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (7, 8)]
    entries = [
        {"id": n, "image_id": 7 + n % 2, "category_id": 1, "bbox": box, "iscrowd": 0} for n, box in enumerate(boxes)
    ]
    data = {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": entries, **more}
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "7.jpg").write_bytes(png(picture(0, 50, 100)))
    return str(path)


def test_coco_gives_a_row_a_box_in_our_corners(tmp_path: Path) -> None:
    source = annotations(tmp_path, [[10, 5, 40, 20], [0, 0, 50.5, 50], [0, 0, 5, 5], [0, 0, 100, 50], [9, 9, 0, 30]])
    out = tmp_path / "m.parquet"
    imported = coco(source, str(tmp_path / "images"), str(out), AREAS)
    assert rows_of(out) == [
        {"key": "7-0", "image": f"{tmp_path}/images/7.jpg", "mask": None, "bbox": [10, 5, 50, 25], "category": "dog"},
        {"key": "8-1", "image": f"{tmp_path}/images/8.jpg", "mask": None, "bbox": [0, 0, 50.5, 50], "category": "dog"},
    ]
    assert imported.notes == ["3 of 5 boxes left out for their size"]
    assert imported.problems["files are missing"] == [f"{tmp_path}/images/8.jpg"]
    reader.read(str(out))


def test_crowds_of_coco_are_no_objects(tmp_path: Path) -> None:
    crowd = [
        {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 25], "iscrowd": 1},
        {"id": 2, "image_id": 7, "bbox": [0, 0, 40, 25]},
    ]
    out = tmp_path / "m.parquet"
    imported = coco(annotations(tmp_path, [], annotations=crowd), str(tmp_path / "images"), str(out), AREAS)
    assert imported.notes == ["1 crowds left out"]
    assert [(row["key"], row["category"]) for row in rows_of(out)] == [("7-2", None)]


TRIANGLE = [20.0, 10.0, 80.0, 10.0, 50.0, 40.0]


def objects(*segmentations: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": n, "image_id": 7, "category_id": 1, "segmentation": found, **more}
        for n, found in enumerate(segmentations)
    ]


def test_polygons_and_run_lengths_of_coco_are_masks(tmp_path: Path) -> None:
    """The image is 100 x 50; run lengths go down the columns."""
    runs = {"size": [50, 100], "counts": [500, 1000, 3500]}
    compressed = pycocotools.mask.frPyObjects(runs, 50, 100)
    packed = {"size": [50, 100], "counts": compressed["counts"].decode()}
    two = [TRIANGLE, [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]]
    out = tmp_path / "m.parquet"
    source = annotations(tmp_path, [], annotations=objects([TRIANGLE], runs, packed, two))
    imported = coco(source, str(tmp_path / "images"), str(out), AREAS)
    assert (imported.rows, imported.problems) == (4, {})
    requests = [{**row, "fingerprint": ""} for row in reader.read(str(out)).table.to_pylist()]
    triangle, band, again, both = (decode(request, DecodeSpec(frozenset({"mask"}))).mask for request in requests)
    assert triangle is not None
    assert both is not None
    assert abs(int(triangle.sum()) - 60 * 30 // 2) < 40
    assert triangle[15, 50]
    assert not triangle[35, 25]
    expected = np.zeros((50, 100), bool)
    expected[:, 10:30] = True
    assert np.array_equal(band, expected)
    assert np.array_equal(again, expected)
    assert both[5, 5]
    assert both[15, 50]
    assert rows_of(out)[0]["bbox"] == pytest.approx([20, 10, 80, 40], abs=1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"segmentation": []}, "neither bbox nor segmentation"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon has 4 numbers"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "run lengths are of 5x5 pixels, the image has 100x50"),
        ({"segmentation": {"size": [50, 100], "counts": [1, 2]}}, "run lengths cover 3 pixels"),
        ({"segmentation": [["a"] * 6]}, "could not convert"),
        ({"bbox": [1, 2, 3]}, "not enough values"),
        ({"bbox": [float("nan"), 0, 20, 20]}, "its bbox is no box"),
        ({"image_id": 99, "bbox": [0, 0, 20, 20]}, "no image 99"),
    ],
)
def test_an_annotation_of_coco_that_cannot_be_used_is_named_and_all_others_are_rows(
    bad: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    entries = [*objects([TRIANGLE]), {"id": 77, "image_id": 7, **bad}]
    out = tmp_path / "m.parquet"
    imported = coco(annotations(tmp_path, [], annotations=entries), str(tmp_path / "images"), str(out), AREAS)
    assert imported.rows == 1
    (named,) = imported.problems["annotations cannot be used"]
    assert named.startswith("77: ")
    assert reason in named


def test_coco_grouped_gives_a_row_an_image_to_train_on(tmp_path: Path) -> None:
    source = annotations(tmp_path, [[0, 0, 50, 25], [0, 0, 20, 25], [10, 10, 50, 25]])
    out = tmp_path / "m.parquet"
    coco(source, str(tmp_path / "images"), str(out), AREAS, grouped=True)
    assert {row["key"]: row["boxes"] for row in rows_of(out)} == {
        "7": [[0, 0, 50, 25], [10, 10, 60, 35]],
        "8": [[0, 0, 20, 25]],
    }
    assert "boxes" in reader.read(str(out)).table.column_names


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_boxes_are_kept_by_their_share_of_the_image_bounds_included(width: float, height: float) -> None:
    from retouch.manifests.importers import _fits

    box = (1.0, 2.0, 1 + 200 * width, 2 + 100 * height)
    share = (box[2] - box[0]) * (box[3] - box[1]) / 20000
    assert _fits(box, (200, 100), (share, share))
    assert not _fits(box, (200, 100), (share * 1.01, 1))
    assert not _fits(box, (200, 100), (0, share * 0.99))


def test_what_is_no_annotation_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(ManifestError, match=r"a\.json is not a COCO annotation file"):
        coco(str(tmp_path / "a.json"), str(tmp_path), str(tmp_path / "m.parquet"), AREAS)
    source = annotations(tmp_path, [[0, 0, 1, 1]])
    with pytest.raises(ManifestError, match="no row is left"):
        coco(source, str(tmp_path / "images"), str(tmp_path / "m.parquet"), AREAS)


def photos(folder: Path) -> str:
    (folder / "train_0").mkdir(parents=True)
    Image.fromarray(picture(0, 50, 100)).save(folder / "train_0" / "aa.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown upright it is 50 wide and 100 high
    Image.fromarray(picture(1, 50, 100)).save(folder / "train_0" / "bb.jpg", exif=turned)
    return str(folder)


def test_open_images_csv_becomes_boxes_in_pixels_of_the_upright_image(tmp_path: Path) -> None:
    lines = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax",
        "aa,x,/m/1,1,0.1,0.6,0.2,0.8",
        "aa,x,/m/1,1,0,0.01,0,0.01",
    ]
    lines += ["bb,x,/m/1,1,0,0.5,0,0.5", "cc,x,/m/1,1,0,0.5,0,0.5"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    images, out = photos(tmp_path / "images"), tmp_path / "m.parquet"
    imported = openimages(str(tmp_path / "boxes.csv"), images, str(out), AREAS)
    found = {row["key"]: (row["image"], row["boxes"]) for row in rows_of(out)}
    assert found["aa"][0] == f"{images}/train_0/aa.jpg"
    np.testing.assert_allclose(found["aa"][1], [[10, 10, 60, 40]])
    np.testing.assert_allclose(found["bb"][1], [[0, 0, 25, 50]])
    assert imported.problems["files are missing"] == [f"{images}/cc.jpg"]
    assert imported.notes == ["1 of 3 boxes left out for their size"]


def test_box_files_in_pixels_become_the_same_manifest(tmp_path: Path) -> None:
    boxes = tmp_path / "bbox" / "train_0"
    boxes.mkdir(parents=True)
    (boxes / "aa.txt").write_text("10 10 60 40\n0 0 1 1\n\n")
    images, out = photos(tmp_path / "images"), tmp_path / "m.parquet"
    openimages(str(tmp_path / "bbox"), images, str(out), AREAS)
    assert [(row["key"], row["boxes"]) for row in rows_of(out)] == [("aa", [[10, 10, 60, 40]])]
    (boxes / "bb.txt").write_text("10 10 left 40")
    with pytest.raises(ManifestError, match=r"bb\.txt: '10 10 left 40' is not x0 y0 x1 y1"):
        openimages(str(tmp_path / "bbox"), images, str(out), AREAS)


def test_a_csv_of_something_else_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("ImageID,XMin,XMax,YMin,YMax\naa,0,1,0,1\naa,0,one,0,1")
    with pytest.raises(ManifestError, match=r"boxes\.csv, line 3, is not a box of Open Images"):
        openimages(str(tmp_path / "boxes.csv"), photos(tmp_path / "images"), str(tmp_path / "m.parquet"), AREAS)


def test_the_command_imports_and_ends_with_1_where_files_are_missing(tmp_path: Path) -> None:
    bench, out = benchmark(tmp_path / "bench", [1, 2], leave_out="2_ref"), str(tmp_path / "m.parquet")
    result = CliRunner().invoke(app, ["import", "cocoee", bench, out])
    assert result.exit_code == 1
    assert f"{out}: 2 rows" in result.output
    assert "1 files are missing" in result.output
    assert "000000000002_ref.png" in result.output
    source = annotations(tmp_path, [[10, 5, 40, 20]])
    result = CliRunner().invoke(app, ["import", "coco", source, str(tmp_path / "images"), out, "--max-area", "0.5"])
    assert (result.exit_code, result.output) == (0, f"{out}: 1 rows\n")
