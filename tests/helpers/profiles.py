"""Small ICC profiles of version 2, made here so that what they mean is known: gamma, primaries, inks."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

D50: Final = (0.9642, 1.0, 0.8249)
# XYZ of red, green and blue, adapted to D50.
P3_PRIMARIES: Final = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_PRIMARIES: Final = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PROPHOTO_PRIMARIES: Final = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
SRGB_PRIMARIES: Final = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
Primaries = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


def _numbers(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _numbers(values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(name: str, kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(D50), **tags}
    body, table, at = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += tag + struct.pack(">II", at, len(padded))
        body += padded
        at += len(padded)
    header = struct.pack(">I4sI4s4s4s", at, b"none", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _numbers(D50)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str, primaries: Primaries, gamma: float) -> bytes:
    """Return a display's profile."""
    tags = {tag + b"XYZ": _xyz(values) for tag, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
    tags |= {tag + b"TRC": _curve(gamma) for tag in (b"r", b"g", b"b")}
    return _profile(name, b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(name: str, gamma: float) -> bytes:
    """Return a grey display's profile."""
    return _profile(name, b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def table_profile(name: str, space: bytes, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a profile that is a table of Lab colours, without a way back, as scanners have them.

    Args:
        name: its description.
        space: ``CMYK`` or ``RGB ``.
        colours: L, a, b in bytes (a and b with 128 added) at each corner of the space, the last channel varying first.
    """
    channels = len(space.strip())
    identity = bytes(range(256))
    corners = b"".join(bytes(colour) for colour in colours)
    assert len(corners) == 3 * 2**channels
    table = b"mft1\0\0\0\0" + bytes([channels, 3, 2, 0]) + _numbers(np.eye(3).ravel().tolist())
    table += identity * channels + corners + identity * 3
    return _profile(name, b"prtr" if space == b"CMYK" else b"scnr", space, b"Lab ", {b"A2B0": table})


def cmyk_profile(name: str) -> bytes:
    """Return a printer's profile whose inks are all neutral: each takes a quarter of the lightness."""
    colours = [(255 - 255 * sum(inks) // 4, 128, 128) for inks in itertools.product((0, 1), repeat=4)]
    return table_profile(name, b"CMYK", colours)


P3: Final = rgb_profile("Display P3 (test)", P3_PRIMARIES, 2.2)
ADOBE: Final = rgb_profile("Adobe RGB (test)", ADOBE_PRIMARIES, 2.2)
PROPHOTO: Final = rgb_profile("ProPhoto (test)", PROPHOTO_PRIMARIES, 1.8)
LINEAR_GREY: Final = grey_profile("Linear grey (test)", 1.0)
CMYK: Final = cmyk_profile("Neutral inks (test)")


def as_srgb(values: np.ndarray, primaries: Primaries, gamma: float) -> np.ndarray:
    """Return what values of a display look like in sRGB, in 0..255 as floats, by the definition of both."""
    light = (values / 255.0) ** gamma @ np.array(primaries) @ np.linalg.inv(np.array(SRGB_PRIMARIES))
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
