"""Folders of images, masks and exemplars to a manifest, matched by their names. Decodes no image.

A row's key is its image's path inside the folder without the ending, ``a/b/cat``; mask and exemplar have the same one
in their folders. What lies below the manifest's folder is addressed relative to it, so that both can move.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv

from retouch import storage
from retouch.errors import ManifestError, ObjectMissing
from retouch.imaging.codec import SUFFIXES
from retouch.schema import REQUEST_COLUMNS

BBOX: Final = pa.list_(pa.float64())
_TEXTS: Final = ("key", "image", "prompt", "source_prompt", "checkpoint", "params")  # of a table, however they look
_NOT_TAKEN: Final = ("mask", "exemplar", "bbox", "landmarks")  # from a table of texts


@dataclass(frozen=True)
class Made:
    """What came of the folders."""

    rows: int  # written; 0 where files without a partner were not to be left out
    unmatched: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what is wrong to the files it is wrong with
    relative: bool = True  # whether all files are addressed relative to the manifest


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
) -> Made:
    """Write a manifest of a folder's images, on any storage.

    Args:
        folder: the images, at any depth.
        output: the manifest's address.
        masks: a folder of masks, which may be the same one where ``mask_suffix`` tells them apart.
        mask_suffix: what a mask's name has behind its image's: ``-mask`` for ``cat-mask.png``.
        exemplars: a folder of exemplars.
        prompt: of every row.
        prompts: a CSV with columns ``image`` (a name, with or without its ending) and ``prompt``, and any others; an
            image that stands there more than once gets as many rows.
        bbox: x0, y0, x1, y1 of every row.
        allow_unmatched: leave files without a partner out; else nothing is written where there are some.

    Raises:
        ManifestError: no image, two of one name, or prompts that cannot be read.
    """
    if prompt is not None and prompts is not None:
        raise ManifestError("prompt and prompts are given; give one text for all, or a table")
    images = _by_name(folder)
    if masks is not None and _same(masks, folder):
        if not mask_suffix:
            raise ManifestError(f"masks and images lie in {folder}: say by mask_suffix what tells them apart")
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
        return Made(0, unmatched)
    base = storage.local_path(output)
    above = (output if base is None else str(base)).rpartition("/")[0]
    rows: list[dict[str, Any]] = [
        {name: _relative(found[key], above) for name, found in columns.items()} | {"key": key}
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
        raise ManifestError(f"nothing to write to {output}: no image of {folder} has all its partners")
    storage.write_table(output, table)
    return Made(table.num_rows, unmatched, not any(_is_absolute(row[name]) for row in rows for name in columns))


def _by_name(folder: str, suffix: str = "") -> dict[str, str]:
    """Path inside the folder, without ending and suffix, to the file's full address; names without the suffix fall out.

    Raises:
        ManifestError: there is no such folder, or two files have one name.
    """
    path = storage.local_path(folder)
    whole = folder.rstrip("/") if path is None else str(path)
    if not storage.is_folder(whole):
        raise ManifestError(f"there is no folder {folder}")
    files = [file for file in storage.list_files(whole) if file.lower().endswith(SUFFIXES)]
    names = [(file.removeprefix(whole).lstrip("/").rpartition(".")[0], file) for file in files]
    found = [(name[: len(name) - len(suffix)], file) for name, file in names if name.endswith(suffix)]
    if twice := [name for name, times in Counter(name for name, _ in found).items() if times > 1]:
        raise ManifestError(f"{folder} has {len(twice)} images under two endings, first {twice[0]!r}; keep one of each")
    return dict(found)


def _texts(uri: str, images: Mapping[str, str], unmatched: dict[str, list[str]]) -> pa.Table:
    """The table of prompts, its column ``image`` brought to keys; what has no partner is added to ``unmatched``."""
    try:
        data = storage.read_bytes(uri)
        table = pacsv.read_csv(
            io.BytesIO(data),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string())),
        )
    except ObjectMissing:
        raise ManifestError(f"there is no {uri}") from None
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{uri} is no CSV file: {' '.join(str(error).split())[:200]}") from None
    if lacking := {"image", "prompt"} - set(table.column_names):
        raise ManifestError(f"{uri} has no column {sorted(lacking)[0]!r}; its columns: {', '.join(table.column_names)}")
    if refused := [name for name in _NOT_TAKEN if name in table.column_names]:
        raise ManifestError(f"{uri} has a column {refused[0]!r}, which is no text; give it by a folder, or by SQL")
    given = table["image"].to_pylist()
    keys = [name if name in images else (name or "").rpartition(".")[0] for name in given]
    unmatched["prompts without image"] = [str(name) for name, key in zip(given, keys, strict=True) if key not in images]
    named = set(keys)
    unmatched["images without prompt"] = [file for key, file in images.items() if key not in named]
    return table.set_column(table.column_names.index("image"), "image", pa.array(keys, pa.string()))


def _with_texts(rows: pa.Table, texts: pa.Table) -> pa.Table:
    """Each row once for each of its texts, in the texts' order."""
    place = {key: number for number, key in enumerate(rows["key"].to_pylist())}
    keys = texts["image"].to_pylist()
    kept = [number for number, key in enumerate(keys) if key in place]
    texts, keys = texts.take(pa.array(kept, pa.int64())), [keys[number] for number in kept]
    table = rows.take(pa.array([place[key] for key in keys], pa.int64()))
    if "key" not in texts.column_names:
        table = table.set_column(table.column_names.index("key"), "key", pa.array(list(_keys(keys)), pa.string()))
    for name in texts.column_names:
        if name == "key":
            table = table.set_column(table.column_names.index("key"), "key", texts["key"])
        elif name != "image":
            table = table.append_column(name, texts[name])
    return table


def _keys(names: Iterable[str]) -> Iterator[str]:
    """Unique names: those that come more than once are numbered."""
    names = list(names)
    times, seen = Counter(names), Counter[str]()
    for name in names:
        seen[name] += 1
        yield name if times[name] == 1 else f"{name}-{seen[name]}"


def _schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    names = [name for name in REQUEST_COLUMNS if name in rows[0]]
    return pa.schema([(name, BBOX if name == "bbox" else pa.string()) for name in names])


def _relative(file: str, above: str) -> str:
    """The address from the manifest's folder, where the file lies below it."""
    return file.removeprefix(f"{above}/") if above and file.startswith(f"{above}/") else file


def _is_absolute(address: str) -> bool:
    return "://" in address or address.startswith("/")


def _same(one: str, other: str) -> bool:
    paths = [storage.local_path(folder) or folder.rstrip("/") for folder in (one, other)]
    return paths[0] == paths[1]
