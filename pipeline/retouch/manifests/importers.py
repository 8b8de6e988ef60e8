"""Import other projects' datasets as manifests: COCOEE, COCO, Open Images.

Addresses in the manifest are absolute, so that it can be anywhere. An import reports missing files and keeps their
rows, which a run records as ``failed_to_load``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pycocotools.mask
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from retouch import storage
from retouch.errors import ManifestError, ObjectMissing, StorageError
from retouch.imaging import codec
from retouch.manifests.written import WrittenManifest

MISSING: Final = "files are missing"
UNUSABLE: Final = "annotations cannot be used"
THREADS: Final = 32  # image headers read in parallel: reading one is mostly latency
COCOEE: Final = {"image": "GT_3500/{}_GT.png", "exemplar": "Ref_3500/{}_ref.png", "mask": "Mask_bbox_3500/{}_mask.png"}
BOXES: Final = pa.list_(pa.list_(pa.float64()))  # x0, y0, x1, y1 each, in pixels
_ORIENTATION: Final = 0x0112  # EXIF
_SWAPS_SIDES: Final = (5, 6, 7, 8)
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Areas = tuple[float, float]  # smallest and largest box as a fraction of its image


def cocoee(folder: str, output: str) -> WrittenManifest:
    """Import Paint by Example's benchmark (``test_bench``): image, mask (white is edited) and exemplar per id.

    Raises:
        ManifestError: ``id_list.npy`` is missing, or holds no integers.
    """
    folder = _absolute(folder)
    ids = [f"{number:012d}" for number in _ids(storage.join(folder, "id_list.npy"))]
    rows = [{"key": id_} | {n: storage.join(folder, path.format(id_)) for n, path in COCOEE.items()} for id_ in ids]
    present = {
        file for name in COCOEE.values() for file in storage.list_files(storage.join(folder, name.split("/")[0]))
    }
    _write(output, rows, pa.schema([("key", pa.string()), *((name, pa.string()) for name in COCOEE)]))
    return _report(len(rows), [row[name] for row in rows for name in COCOEE if row[name] not in present])


def coco(annotations: str, images: str, output: str, areas: Areas, *, grouped: bool = False) -> WrittenManifest:
    """Import COCO's instances: one row per object with ``mask``, ``bbox``, ``category``.

    With ``grouped``, one row per image with all ``boxes``. The mask is the object's polygons or run lengths, as a PNG
    in the cell; without a segmentation the box is edited. Crowds (``iscrowd``) are not single objects and are left out,
    as are boxes outside ``areas``. Annotations that cannot be used are named in the report.

    Raises:
        ManifestError: the file is not a COCO annotation.
    """
    try:
        data = json.loads(_bytes(annotations))
        files = {image["id"]: image for image in data["images"]}
        names = {category["id"]: category["name"] for category in data.get("categories", ())}
        entries = list(data["annotations"])
        found = [entry for entry in entries if not entry.get("iscrowd")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{annotations} is not a COCO annotation file: {error!r}") from None
    rows, unusable = [], []
    for entry in found:
        try:
            rows.append(_coco_row(entry, files, names, with_mask=not grouped))
        except (ValueError, KeyError, TypeError) as error:
            unusable.append(f"{entry.get('id', 'without id')}: {' '.join(str(error).split())}")
    folder = _absolute(images)
    kept = [row for row in rows if _fits(row["bbox"], row.pop("size"), areas)]
    for row in kept:
        row["image"] = storage.join(folder, row["image"])
    missing = _missing(folder, (row["image"] for row in kept))
    notes = _left_out(len(rows) - len(kept), len(rows))
    if crowds := len(entries) - len(found):
        notes.append(f"{crowds} crowds left out")
    if grouped:
        return _write_grouped(output, ((row["image"], row["bbox"]) for row in kept), missing, notes, unusable)
    columns = {
        "key": pa.string(),
        "image": pa.string(),
        "mask": pa.binary(),
        "bbox": pa.list_(pa.float64()),
        "category": pa.string(),
    }
    _write(output, kept, pa.schema(columns.items()))
    return _report(len(kept), missing, notes, unusable)


def openimages(boxes: str, images: str, output: str, areas: Areas) -> WrittenManifest:
    """Import Open Images' boxes for training: one row per image (``image``, ``boxes`` in pixels).

    A missing image is reported and gets no row, because its size in pixels is unknown.

    Args:
        boxes: the published CSV (``ImageID``, ``XMin``, ``XMax``, ``YMin``, ``YMax`` as fractions of the image), or a
            folder of ``ID.txt`` with one line ``x0 y0 x1 y1`` in pixels per box, at any depth.
        images: folder of ``ID.jpg`` at any depth.
        output: the manifest's address.
        areas: smallest and largest box as a fraction of its image.

    Raises:
        ManifestError: unreadable boxes.
    """
    folder = _absolute(images)
    files = {_stem(file): file for file in storage.list_files(folder)}
    relative = not storage.is_folder(boxes)
    by_image = _csv_boxes(boxes) if relative else _text_boxes(_absolute(boxes))
    absent = [storage.join(folder, f"{id_}.jpg") for id_ in by_image if id_ not in files]
    known = [id_ for id_ in by_image if id_ in files]
    with ThreadPoolExecutor(THREADS) as threads:
        sizes = dict(zip(known, threads.map(_size, (files[id_] for id_ in known)), strict=True))
    pairs: list[tuple[str, Box]] = []
    for id_, (width, height) in sizes.items():
        scale = (width, height, width, height) if relative else (1, 1, 1, 1)
        scaled = [_scaled(box, scale) for box in by_image[id_]]
        pairs += [(files[id_], box) for box in scaled if _fits(box, (width, height), areas)]
    total = sum(len(by_image[id_]) for id_ in known)
    return _write_grouped(output, pairs, absent, _left_out(total - len(pairs), total))


def _ids(uri: str) -> list[int]:
    try:
        found = np.load(io.BytesIO(_bytes(uri)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ManifestError(f"{uri} holds no array of ids: {' '.join(str(error).split())[:120]}") from None
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ManifestError(f"{uri} holds {found.dtype} of shape {found.shape}, not a list of integers")
    return [int(number) for number in found]


def _coco_row(
    entry: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]], names: Mapping[int, str], *, with_mask: bool
) -> dict[str, Any]:
    """Return an object's row. Raises ValueError, KeyError or TypeError for an annotation that cannot be used."""
    if entry["image_id"] not in images:
        raise ValueError(f"no image {entry['image_id']}")
    image = images[entry["image_id"]]
    size = image["width"], image["height"]
    runs = _coco_runs(entry["segmentation"], size) if entry.get("segmentation") else None
    if "bbox" in entry:
        x, y, width, height = map(float, entry["bbox"])
    elif runs is not None:
        x, y, width, height = map(float, pycocotools.mask.toBbox(runs))
    else:
        raise ValueError("it has neither bbox nor segmentation")
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError("its bbox is no box")
    return {
        "key": f"{image['id']}-{entry['id']}",
        "image": image["file_name"],
        "mask": codec.encode_mask(pycocotools.mask.decode(runs) > 0) if with_mask and runs is not None else None,
        "bbox": (x, y, x + width, y + height),
        "category": names.get(entry["category_id"]) if "category_id" in entry else None,
        "size": size,
    }


def _coco_runs(segmentation: Any, size: tuple[int, int]) -> Any:
    """Return polygons or run lengths as compressed run lengths of one mask. Raises ValueError if they are none."""
    width, height = size
    if isinstance(segmentation, list):
        numbers = [list(map(float, polygon)) for polygon in segmentation]
        if bad := [polygon for polygon in numbers if len(polygon) < 6 or len(polygon) % 2]:
            raise ValueError(f"a polygon has {len(bad[0])} numbers; x and y of at least three points are needed")
        if not all(math.isfinite(number) for polygon in numbers for number in polygon):
            raise ValueError("a polygon has a number that is not finite")
        return pycocotools.mask.merge(pycocotools.mask.frPyObjects(numbers, height, width))
    counts, shape = segmentation["counts"], tuple(segmentation["size"])
    if shape != (height, width):
        raise ValueError(f"its run lengths are of {shape[1]}x{shape[0]} pixels, the image has {width}x{height}")
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"its run lengths cover {sum(counts)} pixels, the image has {height * width}")
        return pycocotools.mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts}


def _csv_boxes(uri: str) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    reader = csv.DictReader(io.StringIO(_bytes(uri).decode()))
    try:
        for row in reader:
            x0, y0, x1, y1 = (float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax"))
            found.setdefault(row["ImageID"], []).append((x0, y0, x1, y1))
    except (KeyError, ValueError, TypeError) as error:
        raise ManifestError(f"{uri}, line {reader.line_num}, is not a box of Open Images: {error!r}") from None
    return found


def _text_boxes(folder: str) -> dict[str, list[Box]]:
    files = storage.list_files(folder, ".txt")
    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(map(_stem, files), threads.map(_text_file, files), strict=True))


def _text_file(uri: str) -> list[Box]:
    boxes: list[Box] = []
    for line in filter(str.strip, _bytes(uri).decode().splitlines()):
        try:
            x0, y0, x1, y1 = map(float, line.split()[:4])
        except ValueError:
            raise ManifestError(f"{uri}: {line[:60]!r} is not x0 y0 x1 y1") from None
        boxes.append((x0, y0, x1, y1))
    return boxes


def _size(uri: str) -> tuple[int, int]:
    """Return width and height of the upright image, from its file's header."""
    try:
        with storage.open_input(uri) as source, Pillow.open(source) as image:
            # Pillow gives the size of a TIFF upright, that of other files as stored.
            swapped = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in _SWAPS_SIDES
            return image.size[::-1] if swapped else image.size
    except (UnidentifiedImageError, StorageError, OSError) as error:
        raise ManifestError(f"{uri}: image size cannot be read: {error}") from None


def _scaled(box: Box, by: Box) -> Box:
    return box[0] * by[0], box[1] * by[1], box[2] * by[2], box[3] * by[3]


def _fits(box: Box, size: tuple[float, float], areas: Areas) -> bool:
    """Return whether a box's area, as a fraction of its image, is between the bounds (inclusive)."""
    fraction = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    return box[2] > box[0] and box[3] > box[1] and areas[0] <= fraction <= areas[1]


def _write_grouped(
    output: str,
    pairs: Iterable[tuple[str, Box]],
    missing: Sequence[str],
    notes: Sequence[str],
    unusable: Sequence[str] = (),
) -> WrittenManifest:
    grouped: dict[str, list[Box]] = {}
    for image, box in pairs:
        grouped.setdefault(image, []).append(box)
    rows = [{"key": _stem(image), "image": image, "boxes": boxes} for image, boxes in grouped.items()]
    _write(output, rows, pa.schema([("key", pa.string()), ("image", pa.string()), ("boxes", BOXES)]))
    return _report(len(rows), missing, notes, unusable)


def _write(output: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    if not rows:
        raise ManifestError(f"nothing to write to {output}: no row is left")
    storage.write_table(output, pa.Table.from_pylist([dict(row) for row in rows], schema=schema))


def _missing(folder: str, files: Iterable[str]) -> list[str]:
    present = set(storage.list_files(folder))
    return [file for file in dict.fromkeys(files) if file not in present]


def _left_out(count: int, total: int) -> list[str]:
    return [f"{count} of {total} boxes left out for their size"] if count else []


def _report(
    rows: int, missing: Sequence[str], notes: Sequence[str] = (), unusable: Sequence[str] = ()
) -> WrittenManifest:
    problems = {MISSING: missing, UNUSABLE: unusable}
    return WrittenManifest(rows, {name: found for name, found in problems.items() if found}, notes)


def _bytes(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except ObjectMissing:
        raise ManifestError(f"no file at {uri}") from None


def _absolute(folder: str) -> str:
    path = storage.local_path(folder)
    return folder.rstrip("/") if path is None else str(path)


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
