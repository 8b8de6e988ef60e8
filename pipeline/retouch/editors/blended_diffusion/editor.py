"""Blended Diffusion: edits the masked region of an image towards a text or an exemplar (Avrahami et al. 2022).

Loads the networks and converts uint8 batches to tensors and back; ``sampler.py`` makes the edit. Every entry of a batch
has its own prompt, mask and seed and shares nothing with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.noise import Noise
from retouch.diffusion.schedule import named
from retouch.editors import registry
from retouch.editors.blended_diffusion.params import Params as BlendedParams
from retouch.editors.blended_diffusion.params import ResolvedParams
from retouch.editors.blended_diffusion.sampler import Networks, clip_distance, edit, schedule_of
from retouch.editors.runtime import (
    compiled,
    deterministic_kernels,
    encoder_in_precision,
    from_uint8,
    in_precision,
    mask_from_bool,
    refuse_changed_compile,
    refuse_faults,
    to_uint8,
)
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.models.clip import Clip, fold_batch_norms, load_clip
from retouch.models.lpips import load_lpips
from retouch.models.unet import load_unet
from retouch.schema import Batch, EditResult, Pixels


def speed_up(unet: nn.Module, clip: Clip) -> None:
    """Change the networks in place to run fastest under guidance; results are equal up to rounding."""
    visual: Any = clip.model
    fold_batch_norms(visual.visual)
    for network in (unet, visual.visual):
        network.to(memory_format=torch.channels_last)  # pooling and its gradient gain on a CPU, convolutions on a GPU


class BlendedDiffusion(registry.BlendedDiffusion):
    """The editor: loaded networks, uint8 batches."""

    def __init__(self, networks: Networks, clip: Clip, params: BlendedParams, image_size: int, device: str) -> None:
        self.networks, self.clip, self.params = networks, clip, params
        self.image_size, self.device = image_size, device
        self._texts: dict[str, Tensor] = {}
        schedule_of(networks, params)  # raises now rather than at the first batch if the steps are impossible

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks.

        Raises:
            ConfigError: params that contradict each other or the networks.
            WeightsError: a role is missing, or its file is broken or of no known architecture.
        """
        needs = ["unet", "clip"]
        if _needs_lpips(params.resolved()):
            needs.append("lpips")
        if missing := [role for role in needs if role not in weights]:
            hint = "; or set lpips_lambda to 0" if "lpips" in missing else ""
            raise WeightsError(f"blended_diffusion needs weights for {', '.join(missing)}: name them in the job{hint}")
        unet, clip = load_unet(weights["unet"], device), load_clip(weights["clip"], device)
        speed_up(unet.module, clip)
        networks = Networks(
            unet=compiled(unet.module, params.compile),
            schedule=named(unet.schedule),
            learn_sigma=unet.learn_sigma,
            clip=clip,
            num_classes=unet.num_classes,
            lpips=load_lpips(weights["lpips"], "vgg", device) if "lpips" in needs else None,
        )
        return cls(networks, clip, params, unet.image_size, device)

    def check_batch(self, batch: Batch) -> None:
        """Check that the batch can be edited, without a forward pass.

        Raises:
            ConfigError: ``batch.params`` contradict each other or the networks.
            EditError: the guiding exemplar is missing, or a prompt is longer than CLIP reads.
        """
        params = self.params.overridden(batch.params).resolved()
        refuse_changed_compile(batch.params, self.params.compile)
        if _needs_lpips(params) and self.networks.lpips is None:
            raise ConfigError("background_preservation_loss needs LPIPS: set it in the job's params, not in a row's")
        schedule_of(self.networks, params)
        if params.guide == "exemplar":
            if batch.exemplar is None:
                raise EditError("guide is exemplar but there is no exemplar: give the manifest an exemplar column")
            return
        for prompt in batch.prompt:
            self.clip.check_length(prompt.strip())

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; without ``clip_distance`` where nothing guided.

        Raises:
            ConfigError, EditError: see ``check_batch``.
            EditError: an entry's result is not finite, or of one colour all over.
        """
        self.check_batch(batch)
        params = self.params.overridden(batch.params).resolved()
        networks = replace(
            self.networks,
            unet=in_precision(self.networks.unet, params.precision, self.device),
            clip=encoder_in_precision(self.networks.clip, params.precision, self.device),
        )
        source, mask = from_uint8(batch.image, self.device), mask_from_bool(batch.mask, self.device)
        with torch.no_grad(), deterministic_kernels(self.device):
            target, guided = self._targets(batch, params)
            draws = Noise(batch.seed, self.device)
            edited = edit(networks, source, mask, target, params, draws, guided=guided)
            scores = self._scores(edited.image, mask, target, guided, params)
        refuse_faults(edited.x0, source, "lower clip_guidance_lambda")
        if bad := [str(place) for place, score in enumerate(scores) if score is not None and score != score]:
            entries = f"entry {', '.join(bad)} of {len(batch)}"
            raise EditError(f"clip_distance is not finite ({entries}); look at the weights of clip")
        return [
            EditResult(image, {} if score is None else {"clip_distance": score})
            for image, score in zip(to_uint8(edited.image), scores, strict=True)
        ]

    def _targets(self, batch: Batch, params: ResolvedParams) -> tuple[Tensor, Tensor]:
        """Return embeddings [B,D], and which entries [B] have one."""
        if params.guide == "exemplar":
            assert batch.exemplar is not None  # checked
            target = self._embedded(batch.exemplar)
            return target, torch.ones(len(batch), dtype=torch.bool, device=self.device)
        prompts = [prompt.strip() for prompt in batch.prompt]
        guided = torch.tensor([bool(prompt) for prompt in prompts], device=self.device)
        return torch.stack([self._text(prompt) for prompt in prompts]), guided

    def _scores(
        self, image: Tensor, mask: Tensor, target: Tensor, guided: Tensor, params: ResolvedParams
    ) -> list[float | None]:
        """Return each entry's distance to its target; None if it has no target."""
        if not guided.any():
            return [None] * len(image)
        distances = clip_distance(self.clip, image, mask, target, params).cpu()
        return [float(d) if g else None for d, g in zip(distances, guided.cpu(), strict=True)]

    def _text(self, prompt: str) -> Tensor:
        # One at a time: an embedding must not depend on which other prompts were new at the same moment.
        if prompt not in self._texts:
            if len(self._texts) >= 10_000:  # a dataset with one caption per row would grow this without bound
                self._texts.clear()
            self._texts[prompt] = self.clip.encode_text([prompt])[0].float()
        return self._texts[prompt]

    def _embedded(self, exemplar: Pixels) -> Tensor:
        size = self.clip.image_size
        pixels = (from_uint8(exemplar, self.device) + 1) / 2
        small = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return self.clip.encode_image(small, normalise=True).float()


def _needs_lpips(params: ResolvedParams) -> bool:
    return params.background_preservation_loss and params.lpips_lambda > 0
