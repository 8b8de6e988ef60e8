"""Write a manifest for folders of images, masks and exemplars, matched by name.

A row's key is its image's path inside the folder without the suffix, ``a/b/cat``; its mask and exemplar have the same
path in their folders. Files below the manifest's folder get relative addresses, so that both can be moved together.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv

from retouch import storage
from retouch.errors import ManifestError, ObjectMissing
from retouch.imaging.codec import SUFFIXES
from retouch.manifests.written import WrittenManifest
from retouch.schema import REQUEST_COLUMNS

BBOX: Final = pa.list_(pa.float64())
ABSOLUTE: Final = "some addresses are absolute: their files are not below the manifest's folder"
# Columns of a CSV that are never parsed as numbers.
_TEXTS: Final = ("key", "image", "prompt", "negative_prompt", "source_prompt", "checkpoint", "params")
_REFUSED: Final = ("mask", "exemplar", "control", "bbox", "landmarks")  # not accepted from a CSV


def from_folder(
    folder: str,
    output: str,
    *,
    masks: str | None = None,
    mask_suffix: str = "",
    exemplars: str | None = None,
    prompt: str | None = None,
    prompts: str | None = None,
    bbox: Sequence[float] | None = None,
    allow_unmatched: bool = False,
) -> WrittenManifest:
    """Write a manifest for a folder's images; its ``problems`` are the files without a match.

    Args:
        folder: the images, at any depth.
        output: the manifest's address.
        masks: a folder of masks; with ``mask_suffix`` it may be the images' folder.
        mask_suffix: end of a mask's name, after its image's name: ``-mask`` for ``cat-mask.png``.
        exemplars: a folder of exemplars.
        prompt: the prompt of every row.
        prompts: a CSV with columns ``image`` (a name, with or without suffix) and ``prompt``, and any others; an image
            gets one row per line.
        bbox: x0, y0, x1, y1 of every row.
        allow_unmatched: leave out files without a match; otherwise nothing is written if there are any.

    Raises:
        ManifestError: no image, two images of one name, or unreadable prompts.
    """
    if prompt is not None and prompts is not None:
        raise ManifestError("both prompt and prompts are given; give one text for all rows, or a CSV")
    images = _by_name(folder)
    if masks is not None and _same(masks, folder):
        if not mask_suffix:
            raise ManifestError(f"masks and images are both in {folder}; give a mask_suffix to distinguish them")
        images = {name: file for name, file in images.items() if not name.endswith(mask_suffix)}
    if not images:
        raise ManifestError(f"no image in {folder}; looked for names that end with {', '.join(SUFFIXES)}")
    columns = {"image": images}
    unmatched: dict[str, list[str]] = {}
    for name, other, suffix in (("mask", masks, mask_suffix), ("exemplar", exemplars, "")):
        if other is not None:
            found = _by_name(other, suffix)
            columns[name] = found
            unmatched[f"images without {name}"] = [images[key] for key in images if key not in found]
            unmatched[f"{name}s without image"] = [found[key] for key in found if key not in images]
    texts = None if prompts is None else _texts(prompts, images, unmatched)
    unmatched = {what: files for what, files in unmatched.items() if files}
    if unmatched and not allow_unmatched:
        return WrittenManifest(0, unmatched)
    base = storage.local_path(output)
    parent = (output if base is None else str(base)).rpartition("/")[0]
    rows: list[dict[str, Any]] = [
        {name: _relative(found[key], parent) for name, found in columns.items()} | {"key": key}
        for key in images
        if all(key in found for found in columns.values())
    ]
    if bbox is not None:
        rows = [{**row, "bbox": list(bbox)} for row in rows]
    if prompt is not None:
        rows = [{**row, "prompt": prompt} for row in rows]
    table = pa.Table.from_pylist(rows, _schema(rows)) if rows else None
    table = _with_texts(table, texts) if table is not None and texts is not None else table
    if table is None or not table.num_rows:
        raise ManifestError(f"nothing to write to {output}: no image of {folder} has a match in every folder")
    storage.write_table(output, table)
    absolute = any(_is_absolute(row[name]) for row in rows for name in columns)
    return WrittenManifest(table.num_rows, unmatched, [ABSOLUTE] if absolute else [])


def _by_name(folder: str, suffix: str = "") -> dict[str, str]:
    """Return image addresses by path inside the folder, without ``suffix`` and file type; other names are left out.

    Raises:
        ManifestError: there is no such folder, or two files have one name.
    """
    path = storage.local_path(folder)
    whole = folder.rstrip("/") if path is None else str(path)
    if not storage.is_folder(whole):
        raise ManifestError(f"no folder at {folder}")
    files = [file for file in storage.list_files(whole) if file.lower().endswith(SUFFIXES)]
    names = [(file.removeprefix(whole).lstrip("/").rpartition(".")[0], file) for file in files]
    found = [(name[: len(name) - len(suffix)], file) for name, file in names if name.endswith(suffix)]
    if duplicates := [name for name, count in Counter(name for name, _ in found).items() if count > 1]:
        raise ManifestError(
            f"{folder} has {len(duplicates)} images with two suffixes, first {duplicates[0]!r}; keep one of each"
        )
    return dict(found)


def _texts(uri: str, images: Mapping[str, str], unmatched: dict[str, list[str]]) -> pa.Table:
    """Return the CSV of prompts, with keys in its column ``image``; add what has no match to ``unmatched``."""
    try:
        data = storage.read_bytes(uri)
        table = pacsv.read_csv(
            io.BytesIO(data),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string())),
        )
    except ObjectMissing:
        raise ManifestError(f"no file at {uri}") from None
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{uri} is not a CSV file: {' '.join(str(error).split())[:200]}") from None
    if lacking := {"image", "prompt"} - set(table.column_names):
        raise ManifestError(f"{uri} has no column {sorted(lacking)[0]!r}; its columns: {', '.join(table.column_names)}")
    if refused := [name for name in _REFUSED if name in table.column_names]:
        raise ManifestError(f"{uri} has a column {refused[0]!r}, which is not text; give a folder or use SQL")
    names = table["image"].to_pylist()
    keys = [name if name in images else (name or "").rpartition(".")[0] for name in names]
    unmatched["prompts without image"] = [str(name) for name, key in zip(names, keys, strict=True) if key not in images]
    named = set(keys)
    unmatched["images without prompt"] = [file for key, file in images.items() if key not in named]
    return table.set_column(table.column_names.index("image"), "image", pa.array(keys, pa.string()))


def _with_texts(rows: pa.Table, texts: pa.Table) -> pa.Table:
    """Return each row once per text of its image, in the order of the texts."""
    row_of = {key: number for number, key in enumerate(rows["key"].to_pylist())}
    keys = texts["image"].to_pylist()
    kept = [number for number, key in enumerate(keys) if key in row_of]
    texts, keys = texts.take(pa.array(kept, pa.int64())), [keys[number] for number in kept]
    table = rows.take(pa.array([row_of[key] for key in keys], pa.int64()))
    if "key" not in texts.column_names:
        table = table.set_column(table.column_names.index("key"), "key", pa.array(list(_keys(keys)), pa.string()))
    for name in texts.column_names:
        if name == "key":
            table = table.set_column(table.column_names.index("key"), "key", texts["key"])
        elif name != "image":
            table = table.append_column(name, texts[name])
    return table


def _keys(names: Iterable[str]) -> Iterator[str]:
    """Yield unique names: repeated ones are numbered."""
    names = list(names)
    counts, seen = Counter(names), Counter[str]()
    for name in names:
        seen[name] += 1
        yield name if counts[name] == 1 else f"{name}-{seen[name]}"


def _schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    names = [name for name in REQUEST_COLUMNS if name in rows[0]]
    return pa.schema([(name, BBOX if name == "bbox" else pa.string()) for name in names])


def _relative(file: str, parent: str) -> str:
    """Return the address relative to the manifest's folder if the file is below it."""
    return file.removeprefix(f"{parent}/") if parent and file.startswith(f"{parent}/") else file


def _is_absolute(address: str) -> bool:
    return "://" in address or address.startswith("/")


def _same(one: str, other: str) -> bool:
    paths = [storage.local_path(folder) or folder.rstrip("/") for folder in (one, other)]
    return paths[0] == paths[1]
