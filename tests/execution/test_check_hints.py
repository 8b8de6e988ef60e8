"""Hints apply to likely mistakes, and not to what only looks unusual."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from retouch.execution import check_hints
from retouch.execution.check_hints import looks_inverted, min_tokens
from retouch.jobs.config import MaskSpec
from retouch.manifests.decode import DecodeSpec, decode

from manifests import bad_files

PICTURE = bad_files.stored(bad_files.picture())
TOKENIZER = SimpleTokenizer()


def of_files(mask: bytes | None = None, prompt: str | None = None, image: bytes = PICTURE, **how: Any) -> list[str]:
    files = {"image": image} | ({} if mask is None else {"mask": mask})
    spec = DecodeSpec(frozenset({"mask"}), MaskSpec(**how))
    sample = decode({"key": "k", "fingerprint": "", **files}, spec)
    assert sample.failure is None
    return list(check_hints.hints_for_row(sample, files, prompt, spec.mask))


def edges(mask: np.ndarray) -> np.ndarray:
    """An object that lies over the left border and takes a third of it."""
    mask[8:16, :12] = ~mask[8:16, :12]
    return mask


def test_a_black_object_on_white_looks_inverted_and_a_large_white_one_does_not() -> None:
    nothing, everything = np.zeros((24, 32), bool), np.ones((24, 32), bool)
    box = bad_files.box() > 0
    assert looks_inverted(~box)
    assert not looks_inverted(box)
    assert not looks_inverted(everything)
    assert not looks_inverted(nothing)
    large = nothing.copy()
    large[2:, 3:] = True  # over half, but it touches two borders only
    assert not looks_inverted(large)
    assert not looks_inverted(edges(everything.copy()))
    frame = everything.copy()
    frame[2:-2, 2:-2] = False  # all borders, and yet less than half
    assert not looks_inverted(frame)


def test_a_job_that_inverts_its_masks_gets_hints_for_those_that_were_right() -> None:
    right, inverted = bad_files.stored(bad_files.box()), bad_files.stored(bad_files.box(value=0, ground=255))
    assert (of_files(right), of_files(inverted)) == ([], ["mask-inverted"])
    assert (of_files(right, invert=True), of_files(inverted, invert=True)) == (["mask-inverted"], [])


def test_noise_gets_a_hint_only_if_it_is_not_edited() -> None:
    image = bad_files.stored(bad_files.picture(90, 130))
    assert of_files(bad_files.noisy_mask(), image=image) == ["mask-noisy"]
    assert of_files(bad_files.noisy_mask(), image=image, threshold=1) == []
    clean = Image.fromarray(bad_files.box(90, 130))
    assert of_files(bad_files.stored(clean, "JPEG", quality=100), image=image) == []


def test_a_mask_in_an_alpha_channel_is_checked_there() -> None:
    soft = bad_files.box()
    soft[0, :] = 100
    assert of_files(bad_files.alpha_mask(soft)) == ["mask-noisy"]
    assert of_files(bad_files.alpha_mask(bad_files.box())) == []


def test_a_rotated_image_gets_a_hint_unless_the_mask_was_drawn_on_it_as_displayed() -> None:
    def image(orientation: int, height: int = 24, width: int = 32) -> bytes:
        return bad_files.turned(bad_files.picture(height, width), orientation)

    upright, as_stored = bad_files.stored(bad_files.box(32, 24)), bad_files.stored(bad_files.box(24, 32))
    assert of_files(upright, image=image(6)) == []
    assert of_files(as_stored, image=image(6)) == ["mask-resized", "turned-alone"]
    assert of_files(as_stored, image=image(3)) == ["turned-alone"]  # half a turn keeps the size, which is no evidence
    assert of_files(bad_files.stored(bad_files.box(24, 24)), image=image(6, 24, 24)) == ["turned-alone"]
    assert of_files(bad_files.turned(bad_files.box(), 3, "PNG"), image=image(3)) == []


def test_the_preview_in_a_phones_jpeg_is_no_animation() -> None:
    pictures = [Image.fromarray(bad_files.picture()), Image.fromarray(bad_files.picture(6, 8))]
    phones = bad_files.stored(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert of_files(image=phones) == []
    assert of_files(image=bad_files.animated("GIF")) == ["animated"]


@pytest.mark.parametrize(
    ("prompt", "due"),
    [
        (None, []),
        ("a red circle", []),
        ("", ["prompt-blank"]),
        ("\t ", ["prompt-blank"]),
        ("red " * 75, []),
        ("red " * 76, ["prompt-long"]),
        ("7" * 76, ["prompt-long"]),
    ],
)
def test_prompts_that_are_empty_or_certainly_too_long_get_a_hint(prompt: str | None, due: list[str]) -> None:
    assert of_files(prompt=prompt) == due


@settings(max_examples=200, deadline=None)
@given(st.text(string.printable))
def test_the_lower_bound_of_tokens_is_never_above_clips_count(text: str) -> None:
    assert min_tokens(text) <= len(TOKENIZER.encode(text)) + 2
