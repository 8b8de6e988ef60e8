"""One edited row in memory: source, mask and candidates, with its view in a notebook.

Texts in the view come from manifests and are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from markupsafe import Markup
from PIL import Image as Pillow

from retouch import storage
from retouch.errors import OutputError
from retouch.imaging import codec
from retouch.manifests import deferred_images, reader
from retouch.manifests.decode import decode, recorded_spec
from retouch.outputs import image_paths, results
from retouch.outputs.report.thumbnails import Picture, overlay, small_png, thumbnail
from retouch.outputs.run_record import read_run
from retouch.schema import RESULT_FIELDS, Mask, Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
_MAX_SCORES: Final = 8  # in a notebook's caption

_PAGE: Final = Markup(
    '<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start">{figures}</div>'
    '<div style="font-size:smaller;margin-top:4px">{caption}</div>'
)
_FIGURE: Final = Markup(
    '<figure style="margin:0"><img src="{uri}" width="{width}" height="{height}" alt="{name}" '
    'style="image-rendering:{rendering}"><figcaption style="font-size:smaller">{name}</figcaption></figure>'
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One edited image."""

    image: Pixels  # [H, W, 3] at the source's size and in its colours, equal to it outside the mask; or see output_size
    number: int  # among the row's candidates
    seed: int
    scores: Mapping[str, Any] = field(default_factory=dict)  # of the editor and the metrics, by column
    alpha: Plane | None = None  # [H, W] where the source has an alpha channel
    profile: bytes | None = None  # ICC profile of ``image``; None: sRGB

    def to_pil(self) -> Pillow.Image:
        """Return the image as a Pillow image, RGB or RGBA; its profile is in ``info``, so that saving it keeps it."""
        shown = Pillow.fromarray(self.image)
        if self.alpha is not None:
            shown.putalpha(Pillow.fromarray(self.alpha))
        if self.profile is not None:
            shown.info["icc_profile"] = self.profile
        return shown


@dataclass(frozen=True, eq=False, repr=False)
class Edited:
    """The edits of one image: its candidates, best first."""

    source: Pixels  # [H, W, 3], upright, as stored; on a canvas reflected in its new borders
    mask: Mask  # [H, W], True = edited
    candidates: Sequence[Candidate]
    prompt: str = ""
    exemplar: Pixels | None = None  # [h, w, 3] in sRGB
    profile: bytes | None = None  # ICC profile of ``source``; None: sRGB

    @property
    def image(self) -> Pixels:
        """The best candidate, [H, W, 3] uint8."""
        return self.candidates[0].image

    @property
    def seed(self) -> int:
        """The best candidate's seed."""
        return self.candidates[0].seed

    @property
    def scores(self) -> Mapping[str, Any]:
        """The best candidate's scores by name."""
        return self.candidates[0].scores

    def to_pil(self) -> Pillow.Image:
        """Return the best candidate as a Pillow image."""
        return self.candidates[0].to_pil()

    def save(self, uri: str) -> None:
        """Write the best candidate to a path or URL, with the same bytes as a run with this image format.

        Args:
            uri: ends with ``.png``, ``.webp`` (without loss) or ``.jpg`` (not exact outside the mask).

        Raises:
            OutputError: the URI has another ending.
            StorageError: it could not be written.
        """
        ending = uri.rpartition(".")[2].lower().replace("jpeg", "jpg")
        formats = {extension: name for name, extension in codec.EXTENSIONS.items()}
        if ending not in formats:
            raise OutputError(f"{uri} does not end with {', '.join(f'.{name}' for name in formats)}; use one of these")
        best = self.candidates[0]
        storage.write_bytes(uri, codec.encode(best.image, formats[ending], alpha=best.alpha, profile=best.profile))

    def __repr__(self) -> str:
        height, width = self.source.shape[:2]
        facts = [f"{width}x{height}", repr(self.prompt), f"seed {self.seed}", *_score_texts(self.scores)]
        return f"Edited({', '.join(facts)}; {len(self.candidates)} candidates)"

    def _repr_html_(self) -> str:
        """Return source, mask and edits side by side as HTML, for notebooks."""
        pictures = [("source", thumbnail(self.source, profile=self.profile))]
        if self.exemplar is not None:
            pictures.append(("exemplar", thumbnail(self.exemplar)))
        whole = "mask: the whole image" if self.mask.all() else f"mask: {self.mask.mean():.1%}"
        pictures.append((whole, overlay(self.source, self.mask, profile=self.profile)))
        for rank, candidate in enumerate(self.candidates):
            name = "edit" if rank == 0 else f"candidate {candidate.number}"
            pictures.append((name, thumbnail(candidate.image, candidate.alpha, profile=candidate.profile)))
        figures = Markup("").join(_figure(name, picture) for name, picture in pictures)
        caption = " · ".join([*([self.prompt] if self.prompt else []), *_score_texts(self.scores), f"seed {self.seed}"])
        return str(_PAGE.format(figures=figures, caption=caption))

    def _repr_png_(self) -> bytes:
        """Return the best candidate as a small PNG, for consoles without HTML."""
        best = self.candidates[0]
        return small_png(best.image, best.alpha, profile=best.profile)


def read_edited(output: str, key: str) -> Edited:
    """Read one row of a run: its source and mask from the manifest, its images from the output.

    Args:
        output: a run's output folder.
        key: of a row that has an image there.

    Raises:
        OutputError: the folder holds no run, or the row has no image.
        StorageError: an image cannot be read.
        RowError: the source can no longer be read.
    """
    record = read_run(output)["job"]
    table = results.read(output)
    row = _row(table, key)
    if row is None:
        raise OutputError(f"{output} has no result for row {key!r}; read_results lists the keys")
    if not row["output"]:
        raise OutputError(f"row {key!r} has no image: {row['status']}, {row['error_type']}: {row['error_message']}")
    request = _row(reader.read(record["manifest"], defer_images=True).table, key)
    if request is None:
        raise OutputError(f"the manifest of {output} no longer has row {key!r}, so its source is unknown")
    sample = decode({**request, "fingerprint": ""}, recorded_spec(record, frozenset({"exemplar"})))
    if sample.failure is not None:
        raise sample.failure.error()
    assert sample.source is not None
    assert sample.mask is not None
    known = {*RESULT_FIELDS.names, *request}
    scores = {name: value for name, value in row.items() if name not in known}
    return Edited(
        source=sample.source,
        mask=sample.mask,
        candidates=[_candidate(output, row, kept, scores) for kept in (row, *(row["runners_up"] or ()))],
        prompt=sample.prompt,
        exemplar=sample.exemplar,
        profile=sample.profile,
    )


def _row(table: Any, key: str) -> dict[str, Any] | None:
    rows = table.filter(pc.equal(table["key"], key))
    found: list[dict[str, Any]] = deferred_images.load_deferred(rows).to_pylist() if rows.num_rows else []
    return found[0] if found else None


def _candidate(output: str, row: Mapping[str, Any], kept: Mapping[str, Any], best: Mapping[str, Any]) -> Candidate:
    image = codec.decode_output(image_paths.read_image(output, kept["output"]), row["width"], row["height"])
    scores = best if "runners_up" in kept else {}  # the table has only the best candidate's
    return Candidate(image.pixels, kept["candidate"], kept["seed"], scores, image.alpha, image.profile)


def _figure(name: str, picture: Picture) -> Markup:
    rendering = "pixelated" if picture.pixelated else "auto"
    return _FIGURE.format(name=name, uri=picture.uri, width=picture.width, height=picture.height, rendering=rendering)


def _score_texts(scores: Mapping[str, Any]) -> list[str]:
    numbers = [(name, value) for name, value in scores.items() if isinstance(value, int | float)]
    return [f"{name} {value:.4g}" for name, value in numbers if math.isfinite(value)][:_MAX_SCORES]
