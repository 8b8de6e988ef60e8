"""Files as they should not be, and odd ones that are right: images, masks, weights. Knows no manifest and no case.

Everything is made from fixed numbers: the same bytes every time.
"""

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
UPRIGHT, TURNED = 1, 6  # its values; 6: to be turned by 90 degrees clockwise
HEIGHT, WIDTH = 24, 32
BOMB_SIDE: Final = 12_000  # 144 million pixels in 18 kB: over the limit of a quarter GiB of RGB
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of every member of an archive

Array = npt.NDArray[Any]


def picture(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """[H, W, 3] uint8 of which no two neighbours are equal."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 7 + y, y * 9 + x, (x + y) * 5], axis=-1).astype(np.uint8)


def box(height: int = HEIGHT, width: int = WIDTH, value: int = 255, ground: int = 0) -> Array:
    """[H, W] uint8: a rectangle in the middle half."""
    mask = np.full((height, width), ground, np.uint8)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = value
    return mask


def stored(pixels: Array | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def in_mode(mode: str, kind: str = "PNG") -> bytes:
    """The picture in another of Pillow's colour modes."""
    return stored(Image.fromarray(picture()).convert(mode), kind)


def lab() -> bytes:
    """A TIFF whose numbers are lightness and two colours (not converted: the converter notes the time)."""
    return stored(Image.frombytes("LAB", (WIDTH, HEIGHT), picture().tobytes()), "TIFF")


def turned(pixels: Array, orientation: int, kind: str = "JPEG") -> bytes:
    """A file whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return stored(pixels, kind, exif=exif)


def animated(kind: str) -> bytes:
    """Three frames, of which the first is the picture."""
    frames = [Image.fromarray(picture() + np.uint8(40 * i)) for i in range(3)]
    return stored(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def deep(channels: int = 1) -> bytes:
    """A PNG of 16 bits a channel, grey or RGB (which Pillow itself does not write)."""
    values = picture().astype(">u2")[..., :channels] * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return png_chunks(WIDTH, HEIGHT, zlib.compress(rows), depth=16, colour=0 if channels == 1 else 2)


def tiff(values: Array) -> bytes:
    """Grey numbers of any kind."""
    return stored(values, "TIFF")


def with_value(value: float) -> bytes:
    """A float TIFF that holds one such number among 0..1."""
    values = box().astype(np.float32) / 255
    values[0, 0] = value
    return tiff(values)


def noisy_mask() -> bytes:
    """A mask [90, 130] as JPEG: around its edges hundreds of pixels are nearly black."""
    return stored(box(90, 130), "JPEG", quality=75)


def alpha_mask(values: Array) -> bytes:
    """White all over; the shape is in the alpha channel."""
    return stored(np.dstack([np.full((*values.shape, 3), 255, np.uint8), values]))


def png_chunks(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of which everything can be said that no encoder would say."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A small file that decodes to 144 million pixels."""
    row = b"\0" + bytes(BOMB_SIDE // 8)
    return png_chunks(BOMB_SIDE, BOMB_SIDE, zlib.compress(row * BOMB_SIDE, 9), depth=1)


def text_bomb() -> bytes:
    """A picture whose comment is 64 MiB of zeros, compressed."""
    notes = PngInfo()
    notes.add_text("comment", "\0" * (64 << 20), zip=True)
    return stored(picture(), pnginfo=notes)


def code_in_a_pickle(canary: str, *, zipped: bool) -> bytes:
    """A checkpoint that makes the file ``canary`` when it is opened carelessly; plain, or as torch stores it."""

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (canary, "w")

    return zipped_pickle(Payload()) if zipped else pickle.dumps(Payload(), protocol=2)


def safetensors(tensors: dict[str, tuple[int, ...]]) -> bytes:
    """Zeros by name and shape."""
    header, data = [], 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        header.append(f'"{name}":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[{data},{data + size}]}}')
        data += size
    text = ("{" + ",".join(header) + "}").encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def zipped_pickle(content: Any) -> bytes:
    """A pickle as ``torch.save`` lays it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        data = pickle.dumps(content, protocol=2)
        for name, body in {"data.pkl": data, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", EPOCH), body)
    return out.getvalue()
