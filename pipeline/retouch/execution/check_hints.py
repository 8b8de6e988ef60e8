"""Hints for ``retouch check``: signs that a valid row may not be what its author meant."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from retouch.imaging import codec
from retouch.jobs.config import MaskSpec
from retouch.manifests.samples import Sample
from retouch.schema import Mask

# Name to meaning and fix, in the order of the report.
HINTS: Final[Mapping[str, str]] = {
    "mask-inverted": "the mask is white up to its borders, with a black object inside. White is edited; if black marks "
    "what to edit, set mask: {invert: true} in the job",
    "mask-covers-all": "the mask is white everywhere, so all of the image is edited",
    "mask-noisy": "many pixels of the mask are neither black nor above its threshold (JPEG noise, soft edges). They "
    "are not edited; the original authors' code edits every pixel that is not black, as mask: {threshold: 1} does",
    "mask-resized": "the mask is resized to its image, which has another size",
    "turned-alone": "EXIF rotates the image or the mask and not the other, so they may not be aligned",
    "animated": "the file contains several frames; only the first is used",
    "profile-ignored": "the embedded colour profile cannot be read, or is of another kind of device than the file's "
    "values; these are taken as sRGB",
    "profile-converted": "the file's values are of a grey or CMYK profile; the edited file is in sRGB, also outside "
    "the mask (column converted_from)",
    "gamma-ignored": "the PNG names a gamma other than sRGB's and has no colour profile; its values are taken as sRGB",
    "prompt-blank": "the prompt is empty, so no text guides: most editors then fill the region from its surroundings",
    "prompt-long": "the prompt has more than CLIP's 77 tokens: metrics truncate it, Blended Diffusion fails the row",
}
TOKENS: Final = 77  # of OpenAI's CLIP, start and end included
_MOSTLY: Final = 0.5  # smallest white share of an inverted mask
_BORDER: Final = 0.95  # smallest white share of its border pixels: an object may cross an edge
_NOISE: Final = 1.01  # ratio of pixels that are not black to those that are edited
_TOKEN: Final = re.compile(r"[A-Za-z]+|[0-9]")  # each match is at least one CLIP token, whatever surrounds it


def hints_for_row(
    sample: Sample,
    files: Mapping[str, bytes],
    prompt: str | None,
    how: MaskSpec,
    max_pixels: int = codec.MAX_PIXELS,
) -> Iterator[str]:
    """Yield the names of the hints that apply to a row.

    Args:
        sample: the decoded row, without a failure.
        files: its files' bytes, by column.
        prompt: of the manifest; None if it has none or the editor does not use it.
        how: how the mask was read.
        max_pixels: of a file.
    """
    glances = {name: codec.glance(data) for name, data in files.items()}
    if "mask" in files and sample.mask is not None:
        plane = codec.mask_plane(files["mask"], source=how.source, max_pixels=max_pixels)
        yield from _mask_hints(plane, sample.mask, how)
        if _may_be_misaligned(plane, sample.mask, glances["image"].orientation, glances["mask"].orientation):
            yield "turned-alone"
    if any(glance.animated for glance in glances.values()):
        yield "animated"
    looked = [glance for name, glance in glances.items() if name != "mask"]  # whose values are no colours
    if any(glance.profile_ignored for glance in looked):
        yield "profile-ignored"
    if glances["image"].profile and sample.converted_from is not None:
        yield "profile-converted"
    if any(glance.gamma_ignored for glance in looked):
        yield "gamma-ignored"
    if prompt is not None and not prompt.strip():
        yield "prompt-blank"
    if prompt is not None and min_tokens(prompt) > TOKENS:
        yield "prompt-long"


def min_tokens(text: str) -> int:
    """Return a lower bound on a text's CLIP tokens, including start and end, without CLIP's vocabulary.

    Counts ASCII words and digits. Rare words take more than one token; other scripts and punctuation are not counted.
    """
    plain = html.unescape(html.unescape(text))  # as CLIP's tokenizer does first
    return len(_TOKEN.findall(plain)) + 2


def looks_inverted(mask: Mask) -> bool:
    """Return whether a mask [H, W] and its border are mostly True, and something inside is not."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(not mask.all() and mask.mean() > _MOSTLY and border.mean() >= _BORDER)


def _may_be_misaligned(plane: codec.Plane, mask: Mask, *orientations: int) -> bool:
    """Return whether EXIF rotates only one of the files, and their sizes do not show that they are aligned."""
    rotations = [orientation for orientation in orientations if orientation != 1]
    if len(rotations) != 1:
        return False
    changes_size = rotations[0] > 4 and mask.shape[0] != mask.shape[1]  # 5 to 8 are quarter rotations
    return not (changes_size and plane.shape == mask.shape)


def _mask_hints(plane: codec.Plane, mask: Mask, how: MaskSpec) -> Iterator[str]:
    if mask.all():
        yield "mask-covers-all"
    if looks_inverted(mask):
        yield "mask-inverted"
    if not how.invert and int((plane > 0).sum()) > _NOISE * int((plane >= how.threshold).sum()):
        yield "mask-noisy"
    if plane.shape != mask.shape:
        yield "mask-resized"
