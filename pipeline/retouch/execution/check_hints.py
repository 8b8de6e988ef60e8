"""What may be amiss with a row that fails nothing, told from its files and its pixels. Knows no job and no storage."""

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

# Name to what it means and what would do, in the order in which they are told.
HINTS: Final[Mapping[str, str]] = {
    "mask-inverted": "most of the image is white, up to its borders, and what is drawn is black. White is edited; "
    "where black was meant, the job wants mask: {invert: true}",
    "mask-covers-all": "the mask is white everywhere, so all of the image is edited",
    "mask-noisy": "many pixels of the mask are neither black nor over its threshold (JPEG noise, soft edges). They are "
    "not edited; the original authors' code edits all that is not black, as mask: {threshold: 1} does",
    "mask-resized": "the mask has another size than its image and is brought to it",
    "turned-alone": "EXIF turns one of image and mask and not the other, so they may not lie on each other",
    "animated": "the file holds more than one picture; the first is used",
    "prompt-blank": "the prompt is empty, so no text guides; Blended Diffusion then removes what is in the region",
    "prompt-long": "the prompt has more than CLIP's 77 tokens: metrics cut it, Blended Diffusion refuses it",
}
TOKENS: Final = 77  # of OpenAI's CLIP, start and end included
_MOSTLY: Final = 0.5  # share that is white from which a mask may be inverted
_BORDER: Final = 0.95  # share of the outermost pixels that are white in one that is: an object may reach over an edge
_NOISE: Final = 1.01  # pixels that are not black, over those that are edited
_PIECE: Final = re.compile(r"[A-Za-z]+|[0-9]")  # is one token of CLIP's or more, whatever stands around it


def of_row(sample: Sample, files: Mapping[str, bytes], prompt: str | None, how: MaskSpec) -> Iterator[str]:
    """Names of the hints that a row is due.

    Args:
        sample: the row as it was decoded, without a failure.
        files: what was read for it, by column.
        prompt: as the manifest has it; None where there is none, or nobody reads it.
        how: how the mask was read.
    """
    glances = {name: codec.glance(data) for name, data in files.items()}
    if "mask" in files and sample.mask is not None:
        plane = codec.mask_plane(files["mask"], source=how.source)
        yield from _of_mask(plane, sample.mask, how)
        if _lie_askew(plane, sample.mask, glances["image"].orientation, glances["mask"].orientation):
            yield "turned-alone"
    if any(glance.animated for glance in glances.values()):
        yield "animated"
    if prompt is not None and not prompt.strip():
        yield "prompt-blank"
    if prompt is not None and least_tokens(prompt) > TOKENS:
        yield "prompt-long"


def least_tokens(text: str) -> int:
    """How many tokens CLIP makes of a text at least, start and end included; told without its vocabulary.

    Words and digits of ASCII are counted; rare words, other scripts and punctuation take more tokens than are told.
    """
    plain = html.unescape(html.unescape(text))  # as CLIP's tokenizer does first
    return len(_PIECE.findall(plain)) + 2


def looks_inverted(mask: Mask) -> bool:
    """Whether a mask [H, W] is mostly True, so is its border, and something inside is not."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(not mask.all() and mask.mean() > _MOSTLY and border.mean() >= _BORDER)


def _lie_askew(plane: codec.Plane, mask: Mask, *orientations: int) -> bool:
    """Whether EXIF turns one file alone, and sizes do not show that the other one was made to lie on it."""
    turns = [orientation for orientation in orientations if orientation != 1]
    if len(turns) != 1:
        return False
    changes_size = turns[0] > 4 and mask.shape[0] != mask.shape[1]  # 5 to 8 are quarter turns
    return not (changes_size and plane.shape == mask.shape)


def _of_mask(plane: codec.Plane, mask: Mask, how: MaskSpec) -> Iterator[str]:
    if mask.all():
        yield "mask-covers-all"
    if looks_inverted(mask):
        yield "mask-inverted"
    if not how.invert and int((plane > 0).sum()) > _NOISE * int((plane >= how.threshold).sum()):
        yield "mask-noisy"
    if plane.shape != mask.shape:
        yield "mask-resized"
