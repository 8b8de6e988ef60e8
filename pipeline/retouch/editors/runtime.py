"""What all editors share at run time: uint8 to tensors and back, precision, compilation, deterministic kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from retouch.diffusion.sampling import Network
from retouch.errors import ConfigError, EditError
from retouch.schema import Mask, Pixels

Precision = Literal["float32", "bfloat16", "float16"]


class ImageEncoder(Protocol):
    """CLIP's image tower."""

    @property
    def image_size(self) -> int:
        """Side of the images that it takes."""

    def encode_image(self, x: Tensor, normalise: bool = True) -> Tensor:
        """[B,3,size,size] in [0, 1] -> [B,D], not unit length; ``normalise`` applies CLIP's mean and deviation."""


def from_uint8(image: Pixels, device: str) -> Tensor:
    """[B,H,W,3] uint8 -> [B,3,H,W] float32 in [-1, 1]."""
    return torch.from_numpy(image).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Tensor) -> Pixels:
    """[B,3,H,W] in [-1, 1] -> [B,H,W,3] uint8: nearest level, ties to even."""
    levels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def mask_from_bool(mask: Mask, device: str) -> Tensor:
    """[B,H,W] bool -> [B,1,H,W] float32 in {0, 1}."""
    return torch.from_numpy(mask).to(device)[:, None].float()


def refuse_faults(image: Tensor, source: Tensor, hint: str) -> None:
    """Raise EditError for images that only a fault gives, before conversion to uint8, where NaN becomes black.

    Another fault is one colour for every pixel, to the last bit and before anything is clamped: no network that works
    draws even a clear sky like that. An image whose source has one colour may have one, too.

    Args:
        image: [B,3,S,S] as the network left it, nothing pasted.
        source: [B,3,S,S].
        hint: what to try if an image is not finite.

    Raises:
        EditError: names the entries.
    """
    finite = image.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise EditError(f"the edit is not finite ({_entries(~finite)}); {hint}")
    flat = _is_flat(image) & ~_is_flat(source)
    if flat.any():
        raise EditError(f"the network gave one colour all over ({_entries(flat)}); look at its weights and precision")


def _is_flat(x: Tensor) -> Tensor:
    """Which images [B,3,S,S] have one colour, [B] bool."""
    return (x == x[..., :1, :1]).flatten(1).all(dim=1)


def _entries(chosen: Tensor) -> str:
    """Name the chosen entries of [B] bool, and how many there are."""
    return f"entry {', '.join(str(int(place)) for place in chosen.nonzero())} of {len(chosen)}"


@contextmanager
def deterministic_kernels(device: str) -> Iterator[None]:
    """Make a result on the CPU depend on its own entry and the batch's shape alone, not on the number of threads.

    oneDNN splits a convolution by the number of threads: an edit with one thread and with two differs by 5e-4 at its
    end, which turns the level of 10 pixels in 8 images of 32 x 32. So editors compute with one thread, and several
    engines fill a machine's cores. (Switching oneDNN off has the same effect and takes 1.6 times the CPU.)
    """
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_precision(network: Network, precision: Precision, device: str) -> Network:
    """Return the network under autocast with float32 results; the network itself for float32."""
    if precision == "float32":
        return network

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, getattr(torch, precision)):
            return network(*inputs).float()

    return cast


def encoder_in_precision(clip: ImageEncoder, precision: Precision, device: str) -> ImageEncoder:
    """Return CLIP with its image tower under autocast; CLIP itself for float32."""
    return clip if precision == "float32" else _AutocastEncoder(clip, precision, device)


@dataclass(frozen=True)
class _AutocastEncoder:
    clip: ImageEncoder
    precision: Precision
    device: str

    @property
    def image_size(self) -> int:
        return self.clip.image_size

    def encode_image(self, x: Tensor, normalise: bool = True) -> Tensor:
        with torch.autocast(torch.device(self.device).type, getattr(torch, self.precision)):
            return self.clip.encode_image(x, normalise)


def compiled(network: nn.Module, wanted: bool) -> nn.Module:
    """Return the network compiled by torch.compile if ``wanted``, else itself.

    It is compiled during the first pass, which takes minutes for a large one. Shapes are fixed, as an engine's batches
    are; a second shape, after memory was short, compiles again. No CUDA graphs: they write every pass's result to the
    same memory, and PLMS keeps the last four.
    """
    if not wanted:
        return network
    made: Any = torch.compile(network, dynamic=False)
    module: nn.Module = made
    return module


def refuse_changed_compile(values: Mapping[str, Any], loaded: bool) -> None:
    """Raise ConfigError if a row's params set ``compile`` to another value than the networks were loaded with."""
    if values.get("compile", loaded) != loaded:
        raise ConfigError("compile is settled when the networks are loaded: set it in the job's params, not in a row's")
