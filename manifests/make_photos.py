"""Makes ``photos.parquet`` and ``photos/``: photographs in the file formats and colour modes that users have.

The photographs are those in the scikit-image wheel whose licences README.md lists; nothing is downloaded. Run it again
with ``python manifests/make_photos.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL.Image import Quantize, Transpose

HERE = Path(__file__).parent
FOLDER = "photos"  # next to the manifest; addresses are relative to the manifest's folder
ORIENTATION = 0x0112  # EXIF tag
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.string()),
        ("mask", pa.string()),
        ("bbox", pa.list_(pa.int32())),  # x0, y0, x1, y1 in the upright image, x1 and y1 exclusive
        ("prompt", pa.string()),
        ("photo", pa.string()),
        ("covers", pa.string()),
    ]
)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, end exclusive
Maker = Callable[[str], tuple[bytes, tuple[int, int]]]  # a photograph's name to a file and its upright (W, H)


@dataclass(frozen=True)
class Row:
    """One row: the photograph, how it is stored, and the edit."""

    key: str
    photo: str  # file in scikit-image's data folder
    covers: str  # the purpose of this row
    suffix: str
    store: Maker
    edit: Box
    mask: Callable[[Box, tuple[int, int]], bytes] | None  # None: the row has the box itself
    prompt: str


def load(name: str) -> Image.Image:
    """Return a photograph that ships with scikit-image."""
    with (files("skimage") / "data" / name).open("rb") as file:
        return Image.open(io.BytesIO(file.read()))


def untouched(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return the file as it ships."""
    return (files("skimage") / "data" / name).read_bytes(), load(name).size


def as_png(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG of half size in the photograph's own mode."""
    image = load(name).reduce(2)
    return _png(image), image.size


def as_jpeg(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a JPEG in the photograph's own mode."""
    image = load(name)
    return _jpeg(image), image.size


def small_jpeg(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a 120x96 crop as JPEG."""
    image = load(name).crop((40, 60, 160, 156))
    return _jpeg(image), image.size


def portrait_jpeg(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return the right part, higher than wide, as JPEG."""
    image = load(name)
    image = image.crop((image.width - 280, 0, image.width, image.height))
    return _jpeg(image), image.size


def turned_6(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a JPEG stored a quarter turn counterclockwise, with the EXIF orientation that corrects it."""
    image = load(name)
    return _jpeg(image.transpose(Transpose.ROTATE_90), 6), image.size


def turned_8(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return the middle, higher than wide, stored a quarter turn clockwise."""
    image = load(name)
    image = image.crop((64, 0, image.width - 64, image.height))
    return _jpeg(image.transpose(Transpose.ROTATE_270), 8), image.size


def sixteen_bits(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return half size as sums of 2x2 pixels: 16-bit values that do not fit in 8 bits."""
    gray = np.asarray(load(name).convert("L")).astype(np.uint32)
    sums = gray[0::2, 0::2] + gray[0::2, 1::2] + gray[1::2, 0::2] + gray[1::2, 1::2]  # 0..1020
    image = Image.fromarray((sums * 65535 // 1020).astype(np.uint16))
    return _png(image), image.size


def translucent(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return an RGBA PNG of half size whose alpha fades from the middle to transparent corners."""
    image = load(name).convert("RGB").reduce(2)
    y, x = np.ogrid[0 : image.height, 0 : image.width]
    distance = (2 * x - image.width) ** 2 + (2 * y - image.height) ** 2
    reach = image.width**2 + image.height**2
    image.putalpha(Image.fromarray((255 - 255 * distance // reach).astype(np.uint8)))
    return _png(image), image.size


def cmyk(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a CMYK JPEG, as from a print shop."""
    image = load(name).convert("CMYK")
    return _jpeg(image), image.size


def palette(name: str) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG of half size with 64 colours."""
    image = load(name).convert("RGB").reduce(2).quantize(64, Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return _png(image), image.size


def luma(box: Box, size: tuple[int, int]) -> bytes:
    """Return a grayscale PNG, white where to edit."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return _png(mask)


def one_bit(box: Box, size: tuple[int, int]) -> bytes:
    """Return a bilevel PNG, white where to edit."""
    mask = Image.new("1", size)
    mask.paste(1, box)
    return _png(mask)


def in_alpha(box: Box, size: tuple[int, int]) -> bytes:
    """Return an RGBA PNG, black and opaque where to edit, like a mask layer of an image editor."""
    mask = Image.new("RGBA", size)
    mask.paste((0, 0, 0, 255), box)
    return _png(mask)


def rough_jpeg(box: Box, size: tuple[int, int]) -> bytes:
    """Return a grayscale JPEG, white where to edit, with compression noise at its edges."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return _jpeg(mask, quality=75)


ROWS = (
    Row("coffee", "coffee.png", "JPEG, landscape", ".jpg", as_jpeg, (430, 20, 550, 140), luma, "a blue circle"),
    Row("cat-exif-6", "chelsea.png", "JPEG, EXIF orientation 6", ".jpg", turned_6, (250, 180, 350, 276), luma,
        "a green square"),
    Row("astronaut-exif-8", "astronaut.png", "JPEG, EXIF orientation 8, portrait", ".jpg", turned_8,
        (232, 32, 328, 128), None, "a yellow triangle"),
    Row("camera-gray", "camera.png", "PNG, gray", ".png", untouched, (330, 60, 430, 160), luma, "an orange circle"),
    Row("clock-16-bit", "clock_motion.png", "PNG, gray, 16 bits", ".png", sixteen_bits, (64, 40, 112, 88), luma,
        "a green cross"),
    Row("astronaut-rgba", "astronaut.png", "PNG, RGBA", ".png", translucent, (140, 24, 196, 80), in_alpha,
        "a purple circle"),
    Row("rocket-cmyk", "rocket.jpg", "JPEG, CMYK", ".jpg", cmyk, (60, 60, 190, 190), one_bit, "a yellow circle"),
    Row("coffee-palette", "coffee.png", "PNG, palette", ".png", palette, (206, 128, 262, 184), rough_jpeg,
        "a blue square"),
    Row("galaxies", "hubble_deep_field.jpg", "JPEG, large, small mask off the centre", ".jpg", untouched,
        (700, 610, 748, 658), in_alpha, "a red square"),
    Row("rocket-portrait", "rocket.jpg", "JPEG, portrait, mask at the lower right corner", ".jpg", portrait_jpeg,
        (180, 327, 280, 427), None, "a green triangle"),
    Row("gravel-small", "gravel.png", "JPEG, gray, small, mask at the left border", ".jpg", small_jpeg,
        (0, 30, 40, 70), luma, "a red cross"),
    Row("cat-png", "chelsea.png", "PNG, RGB, mask at the upper left corner", ".png", as_png, (0, 0, 64, 60), luma,
        "a purple square"),
)  # fmt: skip


def make(folder: Path) -> pa.Table:
    """Return the manifest and write its files below ``folder``."""
    (folder / FOLDER).mkdir(exist_ok=True)
    rows = []
    for row in ROWS:
        data, size = row.store(row.photo)
        image, mask = f"{FOLDER}/{row.key}{row.suffix}", None
        (folder / image).write_bytes(data)
        if row.mask is not None:
            mask = f"{FOLDER}/{row.key}-mask{'.jpg' if row.mask is rough_jpeg else '.png'}"
            (folder / mask).write_bytes(row.mask(row.edit, size))
        rows.append(
            {
                "key": row.key,
                "image": image,
                "mask": mask,
                "bbox": None if row.mask is not None else list(row.edit),
                "prompt": row.prompt,
                "photo": row.photo,
                "covers": row.covers,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _jpeg(image: Image.Image, orientation: int = 1, quality: int = 90) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    if orientation != 1:
        exif[ORIENTATION] = orientation
    image.save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


if __name__ == "__main__":
    pq.write_table(make(HERE), HERE / "photos.parquet")
