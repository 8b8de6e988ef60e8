"""One edit as a program holds it: the source, the mask, the edited images, and how a notebook shows them.

Every text on the page comes from somebody's manifest and is escaped. Knows neither editors nor Ray.
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
from retouch.jobs.config import MaskSpec
from retouch.manifests import deferred_images, reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.outputs import image_paths, results
from retouch.outputs.report.thumbnails import Picture, overlay, small_png, thumbnail
from retouch.outputs.run_record import read_run
from retouch.schema import RESULT_FIELDS, Mask, Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
_SHOWN: Final = 8  # scores in a notebook's caption

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

    image: Pixels  # [H, W, 3] at the source's size; equal to the source outside the mask, bit for bit
    number: int  # of the tries
    seed: int
    scores: Mapping[str, Any] = field(default_factory=dict)  # of the editor and the metrics, by column
    alpha: Plane | None = None  # [H, W] where the source has an alpha channel

    def to_pil(self) -> Pillow.Image:
        """As a Pillow image, RGB or RGBA."""
        shown = Pillow.fromarray(self.image)
        if self.alpha is not None:
            shown.putalpha(Pillow.fromarray(self.alpha))
        return shown


@dataclass(frozen=True, eq=False, repr=False)
class Edited:
    """What an editor made of one image: its candidates, the best first."""

    source: Pixels  # [H, W, 3], upright
    mask: Mask  # [H, W], True = edited
    candidates: Sequence[Candidate]
    prompt: str = ""
    exemplar: Pixels | None = None  # [h, w, 3]

    @property
    def image(self) -> Pixels:
        """The best candidate, [H, W, 3] uint8."""
        return self.candidates[0].image

    @property
    def seed(self) -> int:
        """The best candidate's own seed."""
        return self.candidates[0].seed

    @property
    def scores(self) -> Mapping[str, Any]:
        """The best candidate's scores by name."""
        return self.candidates[0].scores

    def to_pil(self) -> Pillow.Image:
        """The best candidate as a Pillow image."""
        return self.candidates[0].to_pil()

    def save(self, uri: str) -> None:
        """Write the best candidate to any fsspec address, byte for byte as a run with this format would.

        Args:
            uri: ends with ``.png``, ``.webp`` (without loss) or ``.jpg`` (not exact outside the mask).

        Raises:
            OutputError: another ending.
            StorageError: it could not be written.
        """
        ending = uri.rpartition(".")[2].lower().replace("jpeg", "jpg")
        formats = {extension: name for name, extension in codec.EXTENSIONS.items()}
        if ending not in formats:
            raise OutputError(
                f"{uri} does not end with {', '.join(f'.{name}' for name in formats)}; give it one of these"
            )
        best = self.candidates[0]
        storage.write_bytes(uri, codec.encode(best.image, formats[ending], alpha=best.alpha))

    def __repr__(self) -> str:
        height, width = self.source.shape[:2]
        parts = [f"{width}x{height}", repr(self.prompt), f"seed {self.seed}", *_said(self.scores)]
        return f"Edited({', '.join(parts)}; {len(self.candidates)} candidates)"

    def _repr_html_(self) -> str:
        """Source, mask and edits side by side, for notebooks."""
        pictures = [("source", thumbnail(self.source))]
        if self.exemplar is not None:
            pictures.append(("exemplar", thumbnail(self.exemplar)))
        whole = "mask: the whole image" if self.mask.all() else f"mask: {self.mask.mean():.1%}"
        pictures.append((whole, overlay(self.source, self.mask)))
        for rank, candidate in enumerate(self.candidates):
            name = "edit" if rank == 0 else f"candidate {candidate.number}"
            pictures.append((name, thumbnail(candidate.image, candidate.alpha)))
        figures = Markup("").join(_figure(name, picture) for name, picture in pictures)
        caption = " · ".join([*([self.prompt] if self.prompt else []), *_said(self.scores), f"seed {self.seed}"])
        return str(_PAGE.format(figures=figures, caption=caption))

    def _repr_png_(self) -> bytes:
        """The best candidate, small, for consoles that show no HTML."""
        best = self.candidates[0]
        return small_png(best.image, best.alpha)


def read_edited(output: str, key: str) -> Edited:
    """One row of a run, from storage: its source and mask by the manifest, its images by the results.

    Args:
        output: a run's output folder.
        key: of a row that has an image there.

    Raises:
        OutputError: there is no run, no answer of this key, or none with an image: the reason is said.
        StorageError: an image cannot be read.
        RowError: the source cannot be had any more.
    """
    record = read_run(output)["job"]
    table = results.read(output)
    answer = _row(table, key)
    if answer is None:
        raise OutputError(f"{output} has no answer to a row {key!r}; read_results lists the keys")
    if not answer["output"]:
        raise OutputError(
            f"row {key!r} has no image: {answer['status']}, {answer['error_type']}: {answer['error_message']}"
        )
    request = _row(reader.read(record["manifest"], far=True).table, key)
    if request is None:
        raise OutputError(f"the manifest of {output} has no row {key!r} any more, so its source is not known")
    sample = decode({**request, "fingerprint": ""}, DecodeSpec(frozenset({"exemplar"}), MaskSpec(**record["mask"])))
    if sample.failure is not None:
        raise sample.failure.error()
    assert sample.source is not None
    assert sample.mask is not None
    known = {*RESULT_FIELDS.names, *request}
    scores = {name: value for name, value in answer.items() if name not in known}
    return Edited(
        source=sample.source,
        mask=sample.mask,
        candidates=[_candidate(output, kept, scores) for kept in (answer, *(answer["runners_up"] or ()))],
        prompt=sample.prompt,
        exemplar=sample.exemplar,
    )


def _row(table: Any, key: str) -> dict[str, Any] | None:
    rows = table.filter(pc.equal(table["key"], key))
    found: list[dict[str, Any]] = deferred_images.filled(rows).to_pylist() if rows.num_rows else []
    return found[0] if found else None


def _candidate(output: str, kept: Mapping[str, Any], best: Mapping[str, Any]) -> Candidate:
    image = codec.decode_image(image_paths.read_image(output, kept["output"]), "output")
    scores = best if "runners_up" in kept else {}  # the table has those of the best one alone
    return Candidate(image.pixels, kept["candidate"], kept["seed"], scores, image.alpha)


def _figure(name: str, picture: Picture) -> Markup:
    rendering = "pixelated" if picture.pixelated else "auto"
    return _FIGURE.format(name=name, uri=picture.uri, width=picture.width, height=picture.height, rendering=rendering)


def _said(scores: Mapping[str, Any]) -> list[str]:
    numbers = [(name, value) for name, value in scores.items() if isinstance(value, int | float)]
    return [f"{name} {value:.4g}" for name, value in numbers if math.isfinite(value)][:_SHOWN]
