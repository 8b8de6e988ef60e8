"""Read golden vectors computed by the original authors' code, and compare tensors with them.

A file's sizes, constants and tolerances are in the set's README.json, so that the same tests run on another set:
``RETOUCH_GOLDEN=/other/folder pytest``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from retouch.models.adm import DEFAULT_MULT, ADMConfig
from retouch.models.ddpm import DDPMConfig
from safetensors.torch import load_file
from torch import Tensor

from tests import ROOT

HOME = ROOT / "tests" / "golden"
FOLDER = Path(os.environ.get("RETOUCH_GOLDEN") or HOME)

NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:/\d+)?)"


@cache
def readme() -> Mapping[str, Any]:
    """Return the set's README.json."""
    return json.loads((FOLDER / "README.json").read_text())


def golden(name: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the tensors of one file and its README entry (``config``, ``tolerance``, ``notes``, ``tensors``)."""
    return load_file(FOLDER / name), readme()["files"][name]


def weights_of(tensors: Mapping[str, Tensor], prefix: str = "model.") -> dict[str, Tensor]:
    """Return the tensors below a prefix, under the names of the published checkpoint."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def key_lists() -> list[str]:
    """Return the names of the key lists of published checkpoints in this folder."""
    return sorted(path.name for path in FOLDER.glob("keys_*.json") if "pbe" not in path.name)


def key_list(name: str, folder: Path = FOLDER) -> Mapping[str, Any]:
    """Return one key list: ``config`` and ``keys`` (name to shape)."""
    return json.loads((folder / name).read_text())


def weightless(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return zeros of these shapes that take no memory, nor space in a pickle: expanded from one number."""
    return {name: torch.zeros(()).expand(tuple(shape)) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed difference of tensors, elementwise: ``absolute + of_max * max|ref| + relative * |ref|``."""

    absolute: float = 0.0
    of_max: float = 0.0
    relative: float = 0.0


def tolerance(prose: str) -> Tolerance:
    """Parse a README tolerance: 'exact', 'max|a-b| <= X [* max|ref|]', 'rtol X', 'X relative', bare 'X'."""
    for pattern, name in (
        (rf"max\|a-b\| <= {NUMBER} \* max\|ref\|", "of_max"),
        (rf"max\|a-b\| <= {NUMBER}", "absolute"),
        (rf"rtol {NUMBER}", "relative"),
        (rf"{NUMBER} relative", "relative"),
        (rf"^{NUMBER}$", "absolute"),
    ):
        if found := re.search(pattern, prose):
            number, _, divisor = found[1].partition("/")
            return Tolerance(**{name: float(number) / float(divisor or 1)})
    if prose.startswith("exact"):
        return Tolerance()
    raise ValueError(f"no number in the tolerance {prose!r}")


def assert_within(got: Tensor, ref: Tensor, prose: str, name: str = "tensor") -> None:
    """Fail if ``got`` is not within a README tolerance of ``ref``; the message has the difference."""
    assert tuple(got.shape) == tuple(ref.shape), f"{name}: shape {tuple(got.shape)}, expected {tuple(ref.shape)}"
    limit = tolerance(prose)
    ref = ref.to(torch.float64)
    apart = (got.detach().to(torch.float64) - ref).abs()
    allowed = limit.absolute + limit.of_max * ref.abs().max() + limit.relative * ref.abs()
    assert torch.isfinite(apart).all(), f"{name}: not finite"
    assert (apart <= allowed).all(), (
        f"{name}: {apart.max():.3e} apart where max|ref| is {ref.abs().max():.3e}; allowed: {prose}"
    )


def adm_config(flags: Mapping[str, Any]) -> ADMConfig:
    """Return the architecture that guided-diffusion's own flags describe (``channel_mult="1,1,2"``, ...)."""
    size = int(flags["image_size"])
    mult = tuple(float(part) for part in str(flags["channel_mult"]).split(",") if part.strip())
    return ADMConfig(
        image_size=size,
        num_channels=flags["num_channels"],
        num_res_blocks=flags["num_res_blocks"],
        channel_mult=mult or DEFAULT_MULT[size],
        attention_resolutions=tuple(int(part) for part in str(flags["attention_resolutions"]).split(",")),
        num_head_channels=flags["num_head_channels"],
        learn_sigma=flags["learn_sigma"],
        num_classes=flags.get("num_classes", 1000) if flags["class_cond"] else 0,
    )


def ddpm_config(flags: Mapping[str, Any]) -> DDPMConfig:
    """Return the architecture that the ``model`` block of a DDPM YAML describes, with ``data.image_size`` added."""
    return DDPMConfig(
        image_size=flags["image_size"],
        ch=flags["ch"],
        ch_mult=tuple(flags["ch_mult"]),
        num_res_blocks=flags["num_res_blocks"],
        attn_resolutions=tuple(flags["attn_resolutions"]),
    )
