"""Pictures of a training, as PNG bytes: a contact sheet and loss curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image as Pillow

from retouch.schema import Pixels

MIN_SIDE: Final = 96  # pixels per image of the sheet; smaller images are enlarged
GAP: Final = 4  # white pixels between images


def contact_sheet(rows: Sequence[Pixels]) -> bytes:
    """Return a PNG of images in rows, whose columns belong together (source, reconstruction, translation).

    Args:
        rows: each [N,S,S,3] uint8 with the same N and S.
    """
    side = rows[0].shape[1]
    scale = max(1, -(-MIN_SIDE // side))
    cell = side * scale + GAP
    sheet = np.full((cell * len(rows) + GAP, cell * len(rows[0]) + GAP, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = GAP + y * cell, GAP + x * cell
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + side * scale, left : left + side * scale] = large
    out = io.BytesIO()
    Pillow.fromarray(sheet).save(out, "PNG")
    return out.getvalue()


def loss_curves(curves: Sequence[Mapping[str, float]], name: str) -> bytes:
    """Return a PNG of every term over the batches, each on its own axis, because their scales differ by orders."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = [term for term in curves[0] if term != "batch"]
    figure = Figure(figsize=(7, 1.8 * len(terms)), layout="constrained")
    FigureCanvasAgg(figure)
    at = [curve["batch"] for curve in curves]
    for axis, term in zip(np.atleast_1d(figure.subplots(len(terms), sharex=True)), terms, strict=True):
        axis.plot(at, [curve[term] for curve in curves], linewidth=1)
        axis.set_ylabel(term)
        axis.grid(visible=True, linewidth=0.3)
    axis.set_xlabel("batch")
    figure.suptitle(name)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
