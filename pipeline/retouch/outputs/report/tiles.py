"""The gallery's tiles: a row's pictures, scores, and what could not be read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from retouch.errors import RetouchError, StorageError
from retouch.imaging import codec, regions
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Sample, scaled_to
from retouch.outputs import image_paths
from retouch.outputs.report.thumbnails import LARGEST, Picture, difference, overlay, thumbnail

ImageReader = Callable[[str], bytes]  # an image's path in its output to its bytes
RUNNERS_UP: Final = 3  # shown per row


@dataclass(frozen=True)
class Figure:
    """One picture with its caption."""

    name: str
    picture: Picture | None  # None if it cannot be shown; ``note`` has the reason
    note: str = ""
    href: str = ""  # the image file, relative to the output folder or absolute


@dataclass(frozen=True)
class OtherResult:
    """Another run's result for a row."""

    name: str
    status: str
    figure: Figure | None  # None if the run has no result for the row
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """One row of the gallery."""

    key: str
    status: str
    prompt: str
    figures: Sequence[Figure]
    notes: Sequence[str]
    scores: Mapping[str, Any]  # by name
    columns: Mapping[str, Any]  # the caller's, by name
    result: Mapping[str, Any]  # the results row
    others: Sequence[OtherResult] = ()  # of other runs

    @property
    def sortable(self) -> dict[str, float | None]:
        """The numeric scores; None if the row has none or it is not finite."""
        numbers = {n: v for n, v in self.scores.items() if v is None or isinstance(v, int | float)}
        return {n: None if v is None or not math.isfinite(v) else float(v) for n, v in numbers.items()}

    @property
    def weight(self) -> int:
        """Size of its pictures in characters."""
        figures = [*self.figures, *(other.figure for other in self.others if other.figure)]
        return sum(len(figure.picture.uri) for figure in figures if figure.picture)


def image_reader(output: str, rows: Iterable[Mapping[str, Any]]) -> ImageReader:
    """Return a reader for the images of these results rows; shards are read once, at the start."""
    paths = [image["output"] for row in rows for image in (row, *(row["runners_up"] or ()))]
    shards: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path and image_paths.MEMBER in path:
            shards[image_paths.file_of(path)].append(path)
    held: dict[str, bytes | None] = {}
    for members in shards.values():
        with suppress(StorageError):  # reading an image alone reports the error
            held |= image_paths.read_images(output, members)
    return lambda path: held.get(path) or image_paths.read_image(output, path)


def make_tile(
    read_image: ImageReader,
    row: Mapping[str, Any],
    request: Mapping[str, Any] | None,
    *,
    how: DecodeSpec,
    missing: str,
    scores: Sequence[str],
    columns: Sequence[str],
    side: int = LARGEST,
    output_size: str = "native",
) -> Tile:
    """Return the tile of a row. What cannot be read is noted in its place and not raised.

    Args:
        read_image: reads an image of the output.
        row: the results row.
        request: the manifest's row with this key, if it has one.
        how: how the run decoded its rows.
        missing: the note if ``request`` is None.
        scores: score columns of ``row``.
        columns: the caller's columns of ``row``.
        side: longer side of a picture, in pixels.
        output_size: as in the job.
    """
    sample, problem = (None, missing) if request is None else _inputs(request, how)
    edited, unread = _output(read_image, row, row["output"])
    if sample is not None and edited is not None and output_size == "network":
        sample = scaled_to(sample, (edited.pixels.shape[0], edited.pixels.shape[1]))
    differences, notes = _comparison(sample, edited, row["background_changed_px"], side)
    return Tile(
        key=row["key"],
        status=row["status"],
        prompt=(request or {}).get("prompt") or "",
        figures=[
            *_before(sample, problem, side),
            *_after("after", row["output"], edited, unread, side),
            *differences,
            *_runners_up(read_image, row, side),
        ],
        notes=notes,
        scores={name: row[name] for name in scores},
        columns={name: row[name] for name in columns if row[name] is not None},
        result=row,
    )


def _inputs(request: Mapping[str, Any], how: DecodeSpec) -> tuple[Sample | None, str]:
    """Return a row's inputs and their error; if only mask or exemplar is bad, the image is still returned."""
    request = {**request, "fingerprint": ""}  # passed through by decode and not used here
    sample = decode(request, how)
    if sample.failure is None:
        return sample, ""
    plain = DecodeSpec(frozenset(), images=how.images)
    alone = decode({"key": request["key"], "image": request.get("image"), "fingerprint": ""}, plain)
    return (None if alone.failure else replace(alone, mask=None)), sample.failure.message


def other_result(
    name: str, read_image: ImageReader, row: Mapping[str, Any] | None, scores: Sequence[str], side: int
) -> OtherResult:
    """Return another run's result for a row, from that run's results row."""
    if row is None:
        return OtherResult(name, "no result", None, {})
    image, problem = _output(read_image, row, row["output"])
    figure = next(_after(f"after, {name}", row["output"], image, problem, side, linked=False), None)
    return OtherResult(name, row["status"], figure, {score: row.get(score) for score in scores})


def _before(sample: Sample | None, problem: str, side: int) -> Iterator[Figure]:
    if sample is None or sample.source is None:
        yield Figure("before", None, f"source not readable: {problem}")
        return
    image = (slice(None), slice(None)) if sample.frame is None else sample.frame.slices
    alpha = None if sample.alpha is None else sample.alpha[image]
    yield Figure("before", thumbnail(sample.source[image], alpha, side, profile=sample.profile))
    if sample.exemplar is not None:
        yield Figure("exemplar", thumbnail(sample.exemplar, None, side))
    if sample.mask is None:
        yield Figure("mask", None, f"not usable: {problem}")
    elif sample.mask.all():
        yield Figure("mask", None, "none: the whole image is edited")
    else:
        name = "mask" if sample.frame is None else "canvas"
        yield Figure(
            name, overlay(sample.source, sample.mask, side, profile=sample.profile), f"{sample.mask.mean():.1%}"
        )


def _output(read_image: ImageReader, row: Mapping[str, Any], path: str | None) -> tuple[codec.Image | None, str]:
    if not path:
        return None, ""
    try:
        return codec.decode_output(read_image(path), row.get("width"), row.get("height")), ""
    except RetouchError as error:
        return None, f"output not readable: {error}"


def _after(
    name: str, path: str | None, image: codec.Image | None, problem: str, side: int, *, linked: bool = True
) -> Iterator[Figure]:
    if path:
        picture = None if image is None else thumbnail(image.pixels, image.alpha, side, profile=image.profile)
        is_file = image_paths.MEMBER not in path and "://" not in path
        yield Figure(name, picture, problem, quote(path) if linked and is_file else "")


def _runners_up(read_image: ImageReader, row: Mapping[str, Any], side: int) -> Iterator[Figure]:
    for candidate in (row["runners_up"] or ())[:RUNNERS_UP]:
        image, problem = _output(read_image, row, candidate["output"])
        yield from _after(f"candidate {candidate['candidate']}", candidate["output"], image, problem, side)


def _comparison(
    sample: Sample | None, edited: codec.Image | None, recorded: int | None, side: int
) -> tuple[list[Figure], list[str]]:
    """Return pictures of differences outside the mask, and notes on files that have changed since the run."""
    if sample is None or sample.source is None or sample.mask is None or edited is None:
        return [], []
    source, output = sample.source, edited.pixels
    if source.shape != output.shape:
        sizes = (f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (source, output))
        return [], ["the source is now {}, the output {}".format(*sizes)]
    changed = regions.changed_outside(source, output, sample.mask)
    notes = [f"source, mask or output has changed since the run: {changed} px outside the mask differ now"]
    figures = []
    if changed:
        picture, largest = difference(source, output, sample.mask, side)
        figures = [Figure("changed outside", picture, f"white: {largest} of 255 levels")]
    return figures, notes if changed != recorded else []
