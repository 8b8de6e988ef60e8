"""Image files are decoded to upright uint8 arrays or refused, and encoded without a changed pixel."""

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
from retouch.errors import EditError, LoadError
from retouch.imaging import codec, regions

from tests.helpers import profiles
from tests.helpers.golden_set import assert_within, golden

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
NOISE = RNG.integers(0, 256, (99, 99, 3), dtype=np.uint8)
PLANE = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def saved(image: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgba(alpha: np.ndarray) -> Pillow.Image:
    """The colour image with an alpha plane."""
    image = Pillow.fromarray(COLOUR)
    image.putalpha(Pillow.fromarray(alpha))
    return image


def test_rgb_comes_back_as_it_is() -> None:
    image = codec.decode_image(saved(Pillow.fromarray(COLOUR)))
    assert np.array_equal(image.pixels, COLOUR)
    assert (image.alpha, image.mode, image.format, image.orientation) == (None, "RGB", "PNG", 1)


def test_of_rgba_the_colours_are_plain_and_the_alpha_apart() -> None:
    file = rgba(PLANE)
    image = codec.decode_image(saved(file))
    assert np.array_equal(image.pixels, np.asarray(file.convert("RGB")))
    assert np.array_equal(image.pixels, COLOUR)
    assert image.alpha is not None
    assert np.array_equal(image.alpha, PLANE)


def test_grey_is_three_equal_channels() -> None:
    image = codec.decode_image(saved(Pillow.fromarray(PLANE)))
    assert np.array_equal(image.pixels, np.repeat(PLANE[:, :, None], 3, axis=2))


def test_grey_with_alpha_keeps_both() -> None:
    both = Pillow.merge("LA", (Pillow.fromarray(PLANE), Pillow.fromarray(255 - PLANE)))
    image = codec.decode_image(saved(both))
    assert image.alpha is not None
    assert np.array_equal(image.pixels[:, :, 0], PLANE)
    assert np.array_equal(image.alpha, 255 - PLANE)


def test_one_bit_is_black_and_white() -> None:
    image = codec.decode_image(saved(Pillow.fromarray(PLANE >= 128)))
    assert np.array_equal(image.pixels[:, :, 0], np.where(PLANE >= 128, 255, 0))


def test_16_bit_grey_is_scaled_by_257_and_rounded() -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    image = codec.decode_image(saved(Pillow.fromarray(wide)))
    assert image.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]
    assert image.mode.startswith("I;16")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
    ],
)
def test_grey_without_a_range_takes_the_narrowest_that_fits(values: np.ndarray, expected: list[int]) -> None:
    assert codec.decode_image(saved(Pillow.fromarray(values), "TIFF")).pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [np.array([[np.nan, 1]], np.float32), np.array([[-1, 70000]], np.int32)])
def test_grey_that_cannot_be_scaled_fails_to_load(values: np.ndarray) -> None:
    with pytest.raises(LoadError, match="image holds values"):
        codec.decode_image(saved(Pillow.fromarray(values), "TIFF"))


def test_a_palette_gives_its_colours_and_its_transparency() -> None:
    file = Pillow.new("P", (3, 1))
    file.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    file.putdata([0, 1, 2])
    plain = codec.decode_image(saved(file))
    assert plain.pixels[0].tolist() == [[10, 20, 30], [200, 100, 50], [1, 2, 3]]
    assert plain.alpha is None
    clear = codec.decode_image(saved(file, transparency=1))
    assert np.array_equal(clear.pixels, plain.pixels)
    assert clear.alpha is not None
    assert clear.alpha[0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_are_converted_as_pillow_does(mode: str) -> None:
    data = saved(Pillow.fromarray(COLOUR).convert(mode), "TIFF")
    assert np.array_equal(codec.decode_image(data).pixels, np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Pillow.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert codec.decode_image(data).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_back_upright(orientation: int) -> None:
    upright = Pillow.fromarray(COLOUR)
    # What a camera held that way stores: the inverse of what makes it upright.
    stored = upright
    for candidate in [None, *codec._TURNS.values()]:
        turned = upright if candidate is None else upright.transpose(candidate)
        back = turned if orientation == 1 else turned.transpose(codec._TURNS[orientation])
        if back.size == upright.size and back.tobytes() == upright.tobytes():
            stored = turned
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = codec.decode_image(saved(stored, exif=exif.tobytes()))
    assert np.array_equal(image.pixels, COLOUR)
    assert image.orientation == orientation


def test_damaged_exif_does_not_cost_the_pixels() -> None:
    data = saved(Pillow.fromarray(COLOUR), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(codec.decode_image(data).pixels, COLOUR)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "exemplar file is empty"),
        (b"<html>404</html>", "exemplar is not an image file that Pillow can read"),
        (saved(Pillow.fromarray(NOISE), "JPEG")[:2000], "exemplar is damaged: .*truncated"),
        (saved(Pillow.fromarray(NOISE))[:2000], "exemplar is damaged: .*"),
        (saved(Pillow.fromarray(COLOUR))[:20], "exemplar is "),
    ],
)
def test_what_is_no_whole_image_fails_to_load_with_a_line(data: bytes, line: str) -> None:
    with pytest.raises(LoadError, match=line) as caught:
        codec.decode_image(data, "exemplar")
    assert "\n" not in str(caught.value)


def claiming(side: int) -> bytes:
    """Return a tiny PNG whose header names a size of side x side."""
    data = bytearray(saved(Pillow.new("1", (1, 1))))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")  # as in a run
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_fails_to_load_before_it_unfolds(side: int) -> None:
    with pytest.raises(LoadError, match=r"(too large|over the limit).* images"):
        codec.decode_image(claiming(side))


def test_the_limit_of_pixels_can_be_raised_and_lowered() -> None:
    data = saved(Pillow.new("1", (100, 50)))
    assert codec.decode_image(data, max_pixels=5000).pixels.shape == (50, 100, 3)
    line = r"image has 100x50 pixels, over the limit of 4999; set images: \{max_pixels: 5000\} in the job"
    with pytest.raises(LoadError, match=line):
        codec.decode_image(data, max_pixels=4999)
    assert codec.decode_output(data, 100, 50).pixels.shape == (50, 100, 3)


def with_chunk(name: bytes, body: bytes) -> bytes:
    """Return a picture with a chunk behind its header."""
    png = saved(Pillow.fromarray(COLOUR))
    return png[:33] + struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) + png[33:]


LARGE_TEXT = RNG.integers(32, 127, 3 << 20, dtype=np.uint8).tobytes()  # three times as much as Pillow reads
LARGE_PROFILE = (len(profiles.P3) + (3 << 20)).to_bytes(4, "big") + profiles.P3[4:] + bytes(3 << 20)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"tEXt", b"workflow\0" + LARGE_TEXT),
        (b"zTXt", b"workflow\0\0" + zlib.compress(LARGE_TEXT, 1)),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LARGE_TEXT, 1)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" + LARGE_TEXT, 1)),
        (b"iCCP", b"press\0\0" + zlib.compress(LARGE_PROFILE)),
    ],
)
def test_a_sound_png_may_hold_megabytes_of_metadata(name: bytes, body: bytes) -> None:
    image = codec.decode_image(with_chunk(name, body))
    assert np.array_equal(image.pixels, COLOUR)
    assert image.profile == (LARGE_PROFILE if name == b"iCCP" else None)


@pytest.mark.parametrize(("name", "start"), [(b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0"), (b"iCCP", b"p\0\0")])
def test_metadata_that_unfolds_without_bounds_is_refused_with_its_limit(name: bytes, start: bytes) -> None:
    line = r"metadata than the limits of 16 MiB per compressed PNG chunk"
    with pytest.raises(LoadError, match=line):
        codec.decode_image(with_chunk(name, start + zlib.compress(bytes((16 << 20) + 1), 1)))


def test_a_postscript_program_is_not_run() -> None:
    data = saved(Pillow.fromarray(COLOUR), "EPS")
    with pytest.raises(LoadError, match="EPS, which is a program"):
        codec.decode_image(data)


def test_white_is_edited_from_half_on() -> None:
    file = saved(Pillow.fromarray(np.array([[0, 1, 127, 128, 255]], dtype=np.uint8)))
    assert codec.decode_mask(file).tolist() == [[False, False, False, True, True]]
    assert codec.decode_mask(file, threshold=1).tolist() == [[False, True, True, True, True]]
    assert codec.decode_mask(file, invert=True).tolist() == [[True, True, True, False, False]]


def palette_mask(*colours: tuple[int, int, int]) -> bytes:
    """Return a mask of palette numbers, with their colours."""
    file = Pillow.fromarray((PLANE % len(colours)).astype(np.uint8)).convert("P")
    file.putdata((PLANE % len(colours)).ravel().tolist())
    file.putpalette([value for colour in colours for value in colour])
    return saved(file)


ONES = (PLANE % 2).astype(np.uint8)
VOC = ((0, 0, 0), (128, 0, 0))


@pytest.mark.parametrize(
    "data",
    [
        saved(Pillow.fromarray(ONES)),
        saved(Pillow.fromarray(ONES.astype(np.uint16))),
        saved(Pillow.fromarray(ONES.astype(np.int32)), "TIFF"),
        saved(Pillow.fromarray(np.dstack([ONES] * 3))),
        saved(Pillow.fromarray(ONES * np.uint8(255)).convert("1")),
        palette_mask(*VOC),
    ],
)
@pytest.mark.parametrize("threshold", [1, 128, 255])
def test_in_a_mask_of_0_and_1_what_is_1_is_edited(data: bytes, threshold: int) -> None:
    assert np.array_equal(codec.decode_mask(data, threshold=threshold), ONES == 1)
    assert np.array_equal(codec.decode_mask(data, threshold=threshold, invert=True), ONES == 0)


def test_other_masks_are_read_as_before() -> None:
    others = {
        "noise of a JPEG": (saved(Pillow.fromarray(np.kron(ONES, np.ones((8, 8), np.uint8))), "JPEG", quality=100), 0),
        "1 everywhere": (saved(Pillow.fromarray(np.ones_like(ONES))), 0),
        "0 and 2": (saved(Pillow.fromarray(ONES * np.uint8(2))), 0),
        "a palette of two classes": (palette_mask(*VOC, (0, 128, 0)), 0),
        "a palette whose 0 is white": (palette_mask((255, 255, 255), (0, 0, 0)), (ONES == 0).sum()),
        "a palette whose 1 is white": (palette_mask((0, 0, 0), (255, 255, 255)), (ONES == 1).sum()),
        "0, 1 and 255": (
            saved(Pillow.fromarray(np.where(PLANE > 200, 255, ONES).astype(np.uint8))),
            (PLANE > 200).sum(),
        ),
    }
    for name, (data, edited) in others.items():
        assert codec.decode_mask(data).sum() == edited, name


def test_auto_takes_alpha_where_it_says_something() -> None:
    varied, flat = rgba(PLANE), rgba(np.full_like(PLANE, 255))
    luma = np.asarray(Pillow.fromarray(COLOUR).convert("L")) >= 128
    assert np.array_equal(codec.decode_mask(saved(varied)), PLANE >= 128)
    assert np.array_equal(codec.decode_mask(saved(varied), source="luma"), luma)
    assert np.array_equal(codec.decode_mask(saved(flat)), luma)
    assert codec.decode_mask(saved(flat), source="alpha").all()
    with pytest.raises(LoadError, match="no alpha channel"):
        codec.decode_mask(saved(Pillow.fromarray(COLOUR)), source="alpha")


def test_a_mask_of_another_size_is_brought_to_the_image_with_nearest() -> None:
    checks = np.array([[255, 0], [0, 255]], dtype=np.uint8)
    mask = codec.decode_mask(saved(Pillow.fromarray(checks)), (4, 6))
    assert np.array_equal(mask, np.kron(checks, np.ones((2, 3))) > 0)


def test_a_mask_turns_by_its_own_orientation_unless_told_not_to() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = saved(Pillow.fromarray(PLANE), exif=exif.tobytes())
    assert codec.decode_mask(data).shape == (7, 5)
    assert np.array_equal(codec.decode_mask(data, orient=False), PLANE >= 128)


def test_a_box_is_cut_to_the_image_and_takes_what_it_touches() -> None:
    assert codec.mask_from_bbox([1, 2, 3, 4], (5, 6)).nonzero()[0].tolist() == [2, 2, 3, 3]
    whole = codec.mask_from_bbox([-10, -10, 99, 99], (5, 6))
    assert whole.all()
    touched = codec.mask_from_bbox([1.5, 0, 2.5, 1], (5, 6))
    assert touched[0].tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("bbox", "line"),
    [
        ([1, 2, 3], "not four numbers"),
        ([1, 2, None, 4], "not four numbers"),
        ([1, 2, float("nan"), 4], "not four numbers"),
        ([3, 1, 3, 4], "empty"),
        ([10, 10, 5, 5], "not x, y, width, height"),
        ([6, 0, 9, 5], "outside the image of 6x5"),
        ([-4, 0, 0, 5], "outside"),
    ],
)
def test_a_box_without_pixels_fails_to_load(bbox: list[float], line: str) -> None:
    with pytest.raises(LoadError, match=line):
        codec.mask_from_bbox(bbox, (5, 6))


pixel_arrays = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1)).map(
    lambda s: np.random.default_rng(s[2]).integers(0, 256, (s[0], s[1], 3), dtype=np.uint8)
)


@settings(max_examples=25, deadline=None)
@given(pixels=pixel_arrays, image_format=st.sampled_from(["png", "webp-lossless"]), with_alpha=st.booleans())
def test_lossless_formats_give_back_every_pixel_and_the_same_bytes_again(
    pixels: np.ndarray, image_format: str, with_alpha: bool
) -> None:
    alpha = np.ascontiguousarray(pixels[:, :, 0]) if with_alpha else None
    data = codec.encode(pixels, image_format, alpha=alpha)
    assert codec.encode(pixels.copy(), image_format, alpha=alpha) == data
    image = codec.decode_image(data)
    assert np.array_equal(image.pixels, pixels)
    if alpha is not None and image.alpha is not None:  # webp drops an alpha that is opaque everywhere
        assert np.array_equal(image.alpha, alpha)
    assert (image.alpha is not None) or alpha is None or (alpha == 255).all()


def test_jpeg_is_close_and_has_no_alpha() -> None:
    smooth = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], 16, axis=1).repeat(3, axis=2)
    image = codec.decode_image(codec.encode(smooth, "jpeg", alpha=smooth[:, :, 0]))
    assert image.format == "JPEG"
    assert image.alpha is None
    assert np.abs(image.pixels.astype(int) - smooth).max() <= 4  # quality 95 on a ramp


def test_a_format_that_cannot_hold_the_image_says_which_can() -> None:
    with pytest.raises(EditError, match=r"webp-lossless cannot hold 17000x1 pixels .*; png can"):
        codec.encode(np.zeros((1, 17000, 3), np.uint8), "webp-lossless")


@pytest.mark.parametrize("invert", [0, 1])
def test_image_and_mask_are_prepared_as_the_original_authors_do(invert: int) -> None:
    torch = pytest.importorskip("torch")
    tensors, about = golden("blended_preprocess.safetensors")
    size = about["config"]["image_size"]
    source = codec.decode_image(saved(Pillow.fromarray(tensors["in.init_u8"].numpy()))).pixels
    seen = torch.from_numpy(regions.resize(source, size, size)).permute(2, 0, 1)[None] / 127.5 - 1
    assert_within(seen, tensors["out.init_image"], about["tolerance"]["init_image"], "image")
    data = saved(Pillow.fromarray(tensors["in.mask_u8"].numpy()))
    mask = codec.decode_mask(data, (size, size), threshold=1, invert=bool(invert))
    expected = tensors[f"out.mask_invert{invert}"]
    assert_within(torch.from_numpy(mask)[None, None].to(expected.dtype), expected, about["tolerance"]["mask"], "mask")
