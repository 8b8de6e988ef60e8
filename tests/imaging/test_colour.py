"""Colour profiles: what networks see, what a file keeps, and what is converted."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms
from retouch.imaging import codec, colour

from tests.helpers import profiles
from tests.helpers.datasets import picture

SMOOTH = np.stack(np.meshgrid(*[np.linspace(20, 220, 12)] * 3), -1).reshape(36, 48, 3).astype(np.uint8)


def saved(image: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("profile", "primaries", "gamma"),
    [
        (profiles.P3, profiles.P3_PRIMARIES, 2.2),
        (profiles.ADOBE, profiles.ADOBE_PRIMARIES, 2.2),
        (profiles.PROPHOTO, profiles.PROPHOTO_PRIMARIES, 1.8),
    ],
)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 98, "subsampling": 0})],
)
def test_a_file_with_a_profile_keeps_its_values_and_is_seen_in_srgb(
    profile: bytes, primaries: profiles.Primaries, gamma: float, kind: str, options: dict[str, Any]
) -> None:
    data = saved(Pillow.fromarray(SMOOTH), kind, icc_profile=profile, **options)
    image = codec.decode_image(data)
    assert np.array_equal(image.pixels, np.asarray(Pillow.open(io.BytesIO(data))))
    assert (image.profile, image.converted_from) == (profile, None)
    wanted = profiles.as_srgb(image.pixels, primaries, gamma)
    away = np.abs(image.as_seen() - wanted)
    assert away.max() < 2  # where a channel is near 0, 8 bits and the profile's rounded numbers show
    assert np.quantile(away, 0.99) <= 1
    assert np.abs(SMOOTH - wanted).max() > 20  # so that ignoring the profile would not pass


def test_a_profile_of_srgb_changes_no_value_and_is_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = codec.decode_image(saved(Pillow.fromarray(picture(0)), icc_profile=profile))
    assert np.array_equal(image.as_seen(), picture(0))
    assert np.array_equal(colour.from_srgb(picture(0), profile), picture(0))
    assert image.profile == profile


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([profiles.P3, profiles.ADOBE, profiles.PROPHOTO]))
def test_what_is_written_back_is_seen_as_it_was(seed: int, profile: bytes) -> None:
    seen = np.random.default_rng(seed).integers(60, 256, (8, 8, 3), dtype=np.uint8)  # in dark tones, 8 bits are coarse
    again = colour.to_srgb(colour.from_srgb(seen, profile), profile)
    assert np.abs(again.astype(int) - seen).max() <= 3


@pytest.mark.parametrize("image_format", list(codec.EXTENSIONS))
def test_every_format_embeds_the_profile_and_none_where_there_is_none(image_format: str) -> None:
    data = codec.encode(SMOOTH, image_format, profile=profiles.P3)
    assert codec.decode_image(data).profile == profiles.P3
    assert codec.encode(SMOOTH, image_format, profile=profiles.P3) == data
    assert "icc_profile" not in Pillow.open(io.BytesIO(codec.encode(SMOOTH, image_format))).info


def test_alpha_and_palette_keep_the_profile() -> None:
    both = Pillow.fromarray(np.dstack([SMOOTH, np.full(SMOOTH.shape[:2], 128, np.uint8)]))
    image = codec.decode_image(saved(both, icc_profile=profiles.P3))
    assert np.array_equal(image.pixels, SMOOTH)
    assert image.profile == profiles.P3
    palette = Pillow.fromarray(SMOOTH).quantize(16)
    image = codec.decode_image(saved(palette, icc_profile=profiles.P3))
    assert np.array_equal(image.pixels, np.asarray(palette.convert("RGB")))
    assert image.profile == profiles.P3


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_of_a_profile_becomes_srgb_and_says_so(mode: str) -> None:
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = codec.decode_image(saved(Pillow.fromarray(plane).convert(mode), icc_profile=profiles.LINEAR_GREY))
    wanted = profiles.as_srgb(np.repeat(plane[:, :, None], 3, 2), profiles.SRGB_PRIMARIES, 1.0)
    assert np.abs(image.pixels - wanted).max() <= 1
    assert (image.profile, image.converted_from) == (None, "grey: Linear grey (test)")
    assert (image.alpha is not None) == (mode == "LA")


def test_inks_become_srgb_by_their_profile_and_say_so() -> None:
    inks = Pillow.merge("CMYK", [Pillow.new("L", (4, 4), value) for value in (255, 0, 255, 0)])
    image = codec.decode_image(saved(inks, "TIFF", icc_profile=profiles.CMYK))
    # Two of the four inks: L* 50, which is 119 in sRGB. By Pillow's formula it would be green.
    assert np.abs(image.pixels.astype(int) - 119).max() <= 2
    assert (image.profile, image.converted_from) == (None, "CMYK: Neutral inks (test)")
    plain = codec.decode_image(saved(inks, "TIFF"))
    assert (plain.pixels[0, 0].tolist(), plain.converted_from) == ([0, 255, 0], "CMYK")


def test_an_rgb_profile_without_a_way_back_is_converted_and_says_so() -> None:
    greys = [(255 * (r + g + b) // 3, 128, 128) for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    scanner = profiles.table_profile("Scanner (test)", b"RGB ", greys)
    image = codec.decode_image(saved(Pillow.new("RGB", (4, 4), (255, 255, 255)), icc_profile=scanner))
    assert (image.profile, image.converted_from) == (None, "RGB: Scanner (test)")
    assert image.pixels.min() >= 254


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", b"no profile"), ("RGB", profiles.P3[:300]), ("RGB", profiles.CMYK)]
)
def test_a_profile_that_does_not_fit_is_ignored_and_seen_at_a_glance(mode: str, profile: bytes) -> None:
    data = saved(Pillow.fromarray(SMOOTH).convert(mode), icc_profile=profile)
    image = codec.decode_image(data)
    assert np.array_equal(image.as_seen(), SMOOTH)
    assert (image.profile, image.converted_from) == (None, None)
    assert codec.glance(data).profile_ignored


def test_a_gamma_without_a_profile_is_ignored_and_seen_at_a_glance() -> None:
    def with_gamma(gamma: float, **options: Any) -> bytes:
        png = saved(Pillow.fromarray(SMOOTH), **options)
        body = b"gAMA" + struct.pack(">I", round(gamma * 100_000))
        return png[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]

    assert np.array_equal(codec.decode_image(with_gamma(1.0)).as_seen(), SMOOTH)
    assert codec.glance(with_gamma(1.0)).gamma_ignored
    assert not codec.glance(with_gamma(0.45455)).gamma_ignored
    assert not codec.glance(with_gamma(1.0, icc_profile=profiles.P3)).gamma_ignored


def test_what_is_transparent_is_seen_as_the_background_and_what_is_opaque_as_it_is() -> None:
    pixels = np.array([[[10, 20, 30], [10, 20, 30], [200, 100, 0]]], np.uint8)
    alpha = np.array([[255, 0, 51]], np.uint8)
    assert colour.over(pixels, alpha)[0].tolist() == [[10, 20, 30], [255, 255, 255], [244, 224, 204]]
    assert colour.over(pixels, alpha, colour.BLACK)[0].tolist() == [[10, 20, 30], [0, 0, 0], [40, 20, 0]]
    assert colour.over(pixels, None) is pixels
