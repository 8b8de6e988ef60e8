"""Broken files and unusual valid ones: images, masks, weights. Every call makes the same bytes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION: Final = 0x0112  # EXIF tag
UPRIGHT, TURNED = 1, 6  # its values; 6: turn by 90 degrees clockwise
HEIGHT, WIDTH = 24, 32
BOMB_SIDE: Final = 12_000  # 144 million pixels in 18 kB: over the limit of a quarter GiB of RGB
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # date of every member of an archive

Array = npt.NDArray[Any]


def picture(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Return an image [H, W, 3] uint8 in which no two neighbours are equal."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 7 + y, y * 9 + x, (x + y) * 5], axis=-1).astype(np.uint8)


def box(height: int = HEIGHT, width: int = WIDTH, value: int = 255, ground: int = 0) -> Array:
    """Return a mask [H, W] uint8 with a rectangle in its middle half."""
    mask = np.full((height, width), ground, np.uint8)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = value
    return mask


def stored(pixels: Array | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def in_mode(mode: str, kind: str = "PNG") -> bytes:
    """Return the picture in another of Pillow's colour modes."""
    return stored(Image.fromarray(picture()).convert(mode), kind)


def lab() -> bytes:
    """Return a TIFF in mode LAB (not converted from RGB, because the converter writes the time)."""
    return stored(Image.frombytes("LAB", (WIDTH, HEIGHT), picture().tobytes()), "TIFF")


def turned(pixels: Array, orientation: int, kind: str = "JPEG") -> bytes:
    """Return a file with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return stored(pixels, kind, exif=exif)


def animated(kind: str) -> bytes:
    """Return an animation of three frames, the first of which is the picture."""
    frames = [Image.fromarray(picture() + np.uint8(40 * i)) for i in range(3)]
    return stored(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def deep(channels: int = 1) -> bytes:
    """Return a PNG of 16 bits per channel, grey or RGB (Pillow does not write the latter)."""
    values = picture().astype(">u2")[..., :channels] * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return png_chunks(WIDTH, HEIGHT, zlib.compress(rows), depth=16, colour=0 if channels == 1 else 2)


def tiff(values: Array) -> bytes:
    """Return a grey TIFF of any number type."""
    return stored(values, "TIFF")


def with_value(value: float) -> bytes:
    """Return a float TIFF in 0..1 with one pixel of this value."""
    values = box().astype(np.float32) / 255
    values[0, 0] = value
    return tiff(values)


def noisy_mask() -> bytes:
    """Return a mask [90, 130] as JPEG, with hundreds of nearly black pixels around its edges."""
    return stored(box(90, 130), "JPEG", quality=75)


def alpha_mask(values: Array) -> bytes:
    """Return a white image whose alpha channel is the mask."""
    return stored(np.dstack([np.full((*values.shape, 3), 255, np.uint8), values]))


def png_chunks(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG with any header, also those that no encoder writes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """Return a small file that decodes to 144 million pixels."""
    row = b"\0" + bytes(BOMB_SIDE // 8)
    return png_chunks(BOMB_SIDE, BOMB_SIDE, zlib.compress(row * BOMB_SIDE, 9), depth=1)


def text_bomb() -> bytes:
    """Return a picture with a compressed comment of 64 MiB of zeros."""
    notes = PngInfo()
    notes.add_text("comment", "\0" * (64 << 20), zip=True)
    return stored(picture(), pnginfo=notes)


def code_in_a_pickle(canary: str, *, zipped: bool) -> bytes:
    """Return a checkpoint that creates the file ``canary`` if it is unpickled; plain, or in torch's zip format."""

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (canary, "w")

    return zipped_pickle(Payload()) if zipped else pickle.dumps(Payload(), protocol=2)


def safetensors(tensors: dict[str, tuple[int, ...]]) -> bytes:
    """Return a safetensors file of zeros with these names and shapes."""
    header, data = [], 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        header.append(f'"{name}":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[{data},{data + size}]}}')
        data += size
    text = ("{" + ",".join(header) + "}").encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def zipped_pickle(content: Any) -> bytes:
    """Return a pickle in the format of ``torch.save``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        data = pickle.dumps(content, protocol=2)
        for name, body in {"data.pkl": data, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", EPOCH), body)
    return out.getvalue()
