"""Paint by Example: puts an exemplar's object into the masked region (Yang et al. 2022).

Loads the networks and converts uint8 batches; ``sampler.py`` makes the edit on tensors. Every entry has its own
exemplar, mask and seed and shares nothing with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.guidance import cosine_distance
from retouch.diffusion.noise import Noise
from retouch.diffusion.schedule import named
from retouch.diffusion.timesteps import latent_diffusion_path
from retouch.editors import registry
from retouch.editors.paint_by_example import params as exemplar_params
from retouch.editors.paint_by_example.sampler import edit, square_exemplar
from retouch.editors.runtime import (
    compiled,
    deterministic_kernels,
    from_uint8,
    mask_from_bool,
    refuse_changed_compile,
    refuse_faults,
    to_uint8,
)
from retouch.errors import ConfigError, EditError, Filtered
from retouch.models.clip import Clip, load_clip
from retouch.models.paint_by_example import PaintByExampleNetworks, load_networks
from retouch.models.safety import SafetyChecker, load_safety, safety_file
from retouch.schema import Batch, EditResult, Mask, Pixels


class PaintByExample(registry.PaintByExample):
    """The editor: loaded networks, uint8 batches."""

    def __init__(
        self,
        networks: PaintByExampleNetworks,
        params: exemplar_params.Params,
        device: str,
        clip: Clip | None = None,
        safety: SafetyChecker | None = None,
    ) -> None:
        self.networks, self.params, self.device = networks, params, device
        self.clip, self.safety = clip, safety
        self.image_size = networks.image_size
        _check_steps(networks, params)

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks.

        Raises:
            ConfigError: params that contradict each other or the networks.
            WeightsError: a role is missing, or its file is broken or of another architecture.
        """
        networks = load_networks(weights, device)
        if device.startswith("cuda"):
            networks.unet.to(memory_format=torch.channels_last)
        networks = replace(networks, unet=compiled(networks.unet, params.compile))
        clip = load_clip(weights["clip"], device) if "clip" in weights else None
        checker = safety_file(weights) if params.safety_checker else None
        return cls(networks, params, device, clip, load_safety(checker, device) if checker else None)

    def prepare_exemplar(self, exemplar: Pixels, params: Mapping[str, Any]) -> Pixels:
        """Return an exemplar [h,w,3] of any size as the square that ``edit_batch`` takes; ``params`` are the row's."""
        squared: Pixels = self._squared(exemplar[None], self.params.overridden(params))[0]
        return squared

    def check_batch(self, batch: Batch) -> None:
        """Check that the batch can be edited, without a forward pass.

        Raises:
            ConfigError: ``batch.params`` contradict each other or the networks.
            EditError: the exemplar is missing.
        """
        params = self.params.overridden(batch.params)
        refuse_changed_compile(batch.params, self.params.compile)
        if batch.exemplar is None:
            raise EditError("paint_by_example needs an exemplar: give the manifest an exemplar column")
        if params.safety_checker and not self.params.safety_checker:
            raise ConfigError("safety_checker was not loaded: set it in the job's params, not in a row's")
        _check_steps(self.networks, params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; with ``exemplar_distance`` if the job has weights for ``clip``.

        An entry that the safety checker flagged has the error ``Filtered``.

        Raises:
            ConfigError, EditError: see ``check_batch``.
            EditError: an entry's result is not finite, or of one colour all over.
        """
        self.check_batch(batch)
        assert batch.exemplar is not None  # checked
        params = self.params.overridden(batch.params)
        source = from_uint8(batch.image, self.device)
        with torch.no_grad(), deterministic_kernels(self.device):
            exemplar = from_uint8(self._squared(batch.exemplar, params), self.device) / 2 + 0.5
            image = edit(
                self.networks,
                source,
                mask_from_bool(batch.mask, self.device),
                exemplar,
                torch.full((len(batch),), params.guidance_scale, device=self.device),
                params,
                Noise(batch.seed, self.device),
            )
            refuse_faults(image, source, "lower guidance_scale")
            scores = [self._scores(*entry) for entry in zip(image, batch.mask, exemplar, strict=True)]
            errors = [self._flagged(one, params) for one in image]
        return [EditResult(*entry) for entry in zip(to_uint8(image), scores, errors, strict=True)]

    def _squared(self, exemplar: Pixels, params: exemplar_params.Params) -> Pixels:
        """Resize [B,h,w,3] to the encoder's size."""
        pixels = torch.from_numpy(exemplar).permute(0, 3, 1, 2).float() / 255
        squared = square_exemplar(pixels, self.networks.reference_size, params.reference)
        found: Pixels = (squared * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return found

    def _flagged(self, image: Tensor, params: exemplar_params.Params) -> Filtered | None:
        """Return the error of an edit [3,S,S] that the safety checker flags, else None."""
        if self.safety is None or not params.safety_checker or not self.safety.flagged(image):
            return None
        return Filtered("the safety checker flagged the edit; try another seed, or safety_checker: false")

    def _scores(self, image: Tensor, mask: Mask, exemplar: Tensor) -> dict[str, float]:
        """Return CLIP's distance, 0 to 2, of one entry's edited box [3,S,S] to its exemplar [3,R,R]."""
        if self.clip is None:
            return {}
        pair = (_box(image, mask).clamp(-1, 1) / 2 + 0.5, exemplar)
        edited, wanted = (self.clip.encode_image(_resized(x[None], self.clip.image_size)) for x in pair)
        return {"exemplar_distance": float(cosine_distance(edited, wanted)[0])}


def _check_steps(networks: PaintByExampleNetworks, params: exemplar_params.Params) -> None:
    """Raise ConfigError for impossible steps, before the first pass."""
    if params.sampler in ("plms", "ddim"):
        latent_diffusion_path(named(networks.schedule), params.steps)


def _box(image: Tensor, mask: Mask) -> Tensor:
    """Crop an image [3,S,S] to the mask's bounding box; return all of it if the mask is empty."""
    if not mask.any():
        return image
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
