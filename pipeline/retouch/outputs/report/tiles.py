"""One answered row to what a gallery shows of it: its pictures, scores and what went wrong. Knows no HTML."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from retouch.errors import RetouchError, StorageError
from retouch.imaging import codec
from retouch.jobs.config import MaskSpec
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Sample
from retouch.outputs import image_paths
from retouch.outputs.report.thumbnails import LARGEST, Picture, difference, overlay, thumbnail

Fetch = Callable[[str], bytes]
RUNNERS_UP: Final = 3  # shown of each row


@dataclass(frozen=True)
class Figure:
    """One picture with its caption."""

    name: str
    picture: Picture | None  # None: ``note`` says why
    note: str = ""
    href: str = ""  # the file itself: relative to the output folder, or a path where another run made it


@dataclass(frozen=True)
class Other:
    """What another run made of a row. ``figure`` is None, and so are the scores, where it has no answer."""

    name: str
    status: str
    figure: Figure | None
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """One row of the gallery. ``scores`` and ``columns`` (the caller's) are by name."""

    key: str
    status: str
    prompt: str
    figures: Sequence[Figure]
    notes: Sequence[str]
    scores: Mapping[str, Any]
    columns: Mapping[str, Any]
    answer: Mapping[str, Any]  # the results row
    beside: Sequence[Other] = ()  # what other runs made of it

    @property
    def sortable(self) -> dict[str, float | None]:
        """The scores that are numbers, None where the row lacks one or it is not finite."""
        numbers = {n: v for n, v in self.scores.items() if v is None or isinstance(v, int | float)}
        return {n: None if v is None or not math.isfinite(v) else float(v) for n, v in numbers.items()}

    @property
    def weight(self) -> int:
        """Characters of its pictures."""
        figures = [*self.figures, *(other.figure for other in self.beside if other.figure)]
        return sum(len(figure.picture.uri) for figure in figures if figure.picture)


def reader(output: str, answers: Iterable[Mapping[str, Any]]) -> Fetch:
    """Reads the images of these results rows by their addresses; each shard is read once for all of them."""
    outputs = [file["output"] for answer in answers for file in (answer, *(answer["runners_up"] or ()))]
    shards: dict[str, list[str]] = defaultdict(list)
    for address in outputs:
        if address and image_paths.MEMBER in address:
            shards[image_paths.file_of(address)].append(address)
    held: dict[str, bytes | None] = {}
    for members in shards.values():
        with suppress(StorageError):  # asked for alone, each of its images says what is wrong
            held |= image_paths.read_images(output, members)
    return lambda address: held.get(address) or image_paths.read_image(output, address)


def make_tile(
    fetch: Fetch,
    answer: Mapping[str, Any],
    request: Mapping[str, Any] | None,
    *,
    mask: MaskSpec,
    missing: str,
    scores: Sequence[str],
    columns: Sequence[str],
    side: int = LARGEST,
) -> Tile:
    """The tile of one row. What cannot be read is said in its place, never raised.

    Args:
        fetch: the bytes of an image of the output, by its address.
        answer: the results row.
        request: the manifest's row of this key; None where there is none.
        mask: how the job reads masks.
        missing: what to say where ``request`` is None.
        scores: score columns of ``answer``.
        columns: the caller's columns of ``answer``.
        side: longer one of a picture, in pixels.
    """
    sample, problem = (None, missing) if request is None else _inputs(request, mask)
    edited, unread = _output(fetch, answer["output"])
    differences, notes = _comparison(sample, edited, answer["background_changed_px"], side)
    return Tile(
        key=answer["key"],
        status=answer["status"],
        prompt=(request or {}).get("prompt") or "",
        figures=[
            *_before(sample, problem, side),
            *_after("after", answer["output"], edited, unread, side),
            *differences,
            *_runners_up(fetch, answer["runners_up"] or (), side),
        ],
        notes=notes,
        scores={name: answer[name] for name in scores},
        columns={name: answer[name] for name in columns if answer[name] is not None},
        answer=answer,
    )


def _inputs(request: Mapping[str, Any], mask: MaskSpec) -> tuple[Sample | None, str]:
    """A row's inputs and what is wrong with them; where only mask or exemplar is, the image is there all the same."""
    request = {**request, "fingerprint": ""}  # decode passes it on; nobody here reads it
    sample = decode(request, DecodeSpec(frozenset({"exemplar"}), mask))
    if sample.failure is None:
        return sample, ""
    alone = decode({"key": request["key"], "image": request.get("image"), "fingerprint": ""}, DecodeSpec(frozenset()))
    return (None if alone.failure else replace(alone, mask=None)), sample.failure.message


def other(name: str, fetch: Fetch, answer: Mapping[str, Any] | None, scores: Sequence[str], side: int) -> Other:
    """What a run beside this one made of a row, from its results row; None where it has none."""
    if answer is None:
        return Other(name, "no answer", None, {})
    image, problem = _output(fetch, answer["output"])
    figure = next(_after(f"after, {name}", answer["output"], image, problem, side, linked=False), None)
    return Other(name, answer["status"], figure, {score: answer.get(score) for score in scores})


def _before(sample: Sample | None, problem: str, side: int) -> Iterator[Figure]:
    if sample is None or sample.source is None:
        yield Figure("before", None, f"source not readable: {problem}")
        return
    yield Figure("before", thumbnail(sample.source, sample.alpha, side))
    if sample.exemplar is not None:
        yield Figure("exemplar", thumbnail(sample.exemplar, None, side))
    if sample.mask is None:
        yield Figure("mask", None, f"not usable: {problem}")
    elif sample.mask.all():
        yield Figure("mask", None, "none: the whole image is edited")
    else:
        yield Figure("mask", overlay(sample.source, sample.mask, side), f"{sample.mask.mean():.1%}")


def _output(fetch: Fetch, path: str | None) -> tuple[codec.Image | None, str]:
    if not path:
        return None, ""
    try:
        return codec.decode_image(fetch(path), "output"), ""
    except RetouchError as error:
        return None, f"output not readable: {error}"


def _after(
    name: str, path: str | None, image: codec.Image | None, problem: str, side: int, *, linked: bool = True
) -> Iterator[Figure]:
    if path:
        picture = None if image is None else thumbnail(image.pixels, image.alpha, side)
        is_file = image_paths.MEMBER not in path and "://" not in path
        yield Figure(name, picture, problem, quote(path) if linked and is_file else "")


def _runners_up(fetch: Fetch, candidates: Sequence[Mapping[str, Any]], side: int) -> Iterator[Figure]:
    for candidate in candidates[:RUNNERS_UP]:
        image, problem = _output(fetch, candidate["output"])
        yield from _after(f"candidate {candidate['candidate']}", candidate["output"], image, problem, side)


def _comparison(
    sample: Sample | None, edited: codec.Image | None, recorded: int | None, side: int
) -> tuple[list[Figure], list[str]]:
    """Where the output differs outside the mask, if anywhere, and what no longer fits together since the run."""
    if sample is None or sample.source is None or sample.mask is None or edited is None:
        return [], []
    source, output = sample.source, edited.pixels
    if source.shape != output.shape:
        sizes = (f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (source, output))
        return [], ["the source is {} now, the output {}".format(*sizes)]
    changed = codec.changed_outside(source, output, sample.mask)
    notes = [f"source, mask or output has changed since the run: {changed} px outside the mask differ now"]
    figures = []
    if changed:
        picture, largest = difference(source, output, sample.mask, side)
        figures = [Figure("changed outside", picture, f"white: {largest} of 255 levels")]
    return figures, notes if changed != recorded else []
