"""Blended Latent Diffusion: edits the masked region towards a text, with any Stable Diffusion or SDXL checkpoint.

Avrahami, Fried, Lischinski 2023. Loads the networks and converts uint8 batches; ``sampler.py`` makes the edit on
tensors, ``background.py`` what follows it. Every entry has its own prompt, mask and seed and shares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from retouch.diffusion.noise import Noise
from retouch.editors import registry
from retouch.editors.blended_latent.background import fitted, poisson
from retouch.editors.blended_latent.params import Params as LatentParams
from retouch.editors.blended_latent.params import ResolvedParams
from retouch.editors.blended_latent.sampler import Condition, Edited, clip_distance, edit, latent_mask, path_of
from retouch.editors.runtime import (
    compiled,
    deterministic_kernels,
    from_uint8,
    mask_from_bool,
    refuse_changed_compile,
    refuse_faults,
    to_uint8,
)
from retouch.errors import ConfigError, EditError, Filtered, WeightsError
from retouch.models.clip import Clip, load_clip
from retouch.models.safety import SafetyChecker, load_safety, safety_file
from retouch.models.stable_diffusion import StableDiffusion, Text, load_stable_diffusion
from retouch.schema import Batch, EditResult

MAX_TEXTS: Final = 256  # encoded prompts that are kept: of SDXL 0.6 MB each


class BlendedLatent(registry.BlendedLatent):
    """The editor: loaded networks, uint8 batches."""

    def __init__(
        self,
        networks: StableDiffusion,
        params: LatentParams,
        device: str,
        clip: Clip | None = None,
        safety: SafetyChecker | None = None,
    ) -> None:
        self.networks, self.params, self.device = networks, params, device
        self.clip, self.safety = clip, safety
        self.image_size = networks.image_size
        self._texts: dict[tuple[str, bool], Text] = {}
        self._targets: dict[str, Tensor] = {}
        path_of(networks, params.resolved())  # raises now rather than at the first batch if the steps are impossible

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks.

        Raises:
            ConfigError: params that contradict the networks.
            WeightsError: a role is missing, or its folder is of another kind, or a file is missing or broken.
        """
        if "model_index" not in weights:
            raise WeightsError(
                "blended_latent needs weights for model_index, a text-to-image folder in diffusers' layout; "
                f"the job names {', '.join(weights) or 'none'}"
            )
        networks = load_stable_diffusion(weights["model_index"], device)
        if device.startswith("cuda"):
            networks.unet.to(memory_format=torch.channels_last)
        networks = replace(networks, unet=compiled(networks.unet, params.compile))
        clip = load_clip(weights["clip"], device) if "clip" in weights else None
        checker = safety_file(weights) if params.safety_checker else None
        return cls(networks, params, device, clip, load_safety(checker, device) if checker else None)

    def check_batch(self, batch: Batch) -> None:
        """Raise ConfigError if ``batch.params`` contradict each other, the rows or the networks; no forward pass."""
        params = self.params.overridden(batch.params)
        refuse_changed_compile(batch.params, self.params.compile)
        if params.safety_checker and not self.params.safety_checker:
            raise ConfigError("safety_checker was not loaded: set it in the job's params, not in a row's")
        resolved = params.resolved()
        if any(batch.negative_prompt or ()) and resolved.guidance_scale == 1:
            raise ConfigError("negative_prompt is not read with guidance_scale 1; raise it, or leave the column out")
        path_of(self.networks, resolved)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; with ``clip_distance`` if there are weights for ``clip`` and a prompt.

        An entry that the safety checker flagged has the error ``Filtered``; one whose mask has no latent pixel,
        ``EditError``.

        Raises:
            ConfigError: see ``check_batch``.
            EditError: an entry's result is not finite, or of one colour all over.
        """
        self.check_batch(batch)
        params = self.params.overridden(batch.params).resolved()
        source, mask = from_uint8(batch.image, self.device), mask_from_bool(batch.mask, self.device)
        with torch.no_grad(), deterministic_kernels(self.device):
            prompts = [prompt.strip() for prompt in batch.prompt]
            texts = [self._text(prompt) for prompt in prompts]
            condition = self._condition(texts, batch.negative_prompt or [""] * len(batch), params)
            edited = edit(self.networks, source, mask, condition, params, Noise(batch.seed, self.device))
            refuse_faults(edited.image, source, "lower guidance_scale")
            image = self._with_background(edited, source, mask, params)
            scores = self._scores(image, mask, prompts, texts)
            errors = self._errors(image, mask, params)
        return [EditResult(*entry) for entry in zip(to_uint8(image), scores, errors, strict=True)]

    def _condition(self, texts: list[Text], negatives: Sequence[str], params: ResolvedParams) -> Condition:
        """Stack what the UNet reads, the unconditional half first; ``negatives`` are the rows' own, "" for none."""
        if params.guidance_scale != 1:
            prompts = [(own or params.negative_prompt).strip() for own in negatives]
            texts = [self._text(prompt, negative=True) for prompt in prompts] + texts
        context = torch.stack([text.context for text in texts])
        if not self.networks.is_xl:
            return Condition(context)
        pooled = torch.stack([text.pooled for text in texts if text.pooled is not None])
        size = (self.image_size, self.image_size)
        sizes = context.new_tensor([[*size, 0, 0, *size]]).expand(len(texts), -1)  # of a whole image at its own size
        return Condition(context, {"text_embeds": pooled, "time_ids": sizes})

    def _with_background(self, edited: Edited, source: Tensor, mask: Tensor, params: ResolvedParams) -> Tensor:
        """Return the images [B,3,S,S] after ``params.background``, one at a time."""
        if params.background == "none":
            return edited.image
        found = []
        for place in range(len(source)):
            image, latent, one, inside = (x[place : place + 1] for x in (edited.image, edited.latent, source, mask))
            if params.background == "poisson":
                found.append(poisson(image, one, inside))
            else:
                steps, weight = params.background_steps, params.background_weight
                found.append(fitted(self.networks, image, latent, one, inside, params.background, steps, weight))
        return torch.cat(found)

    def _scores(self, image: Tensor, mask: Tensor, prompts: list[str], texts: list[Text]) -> list[dict[str, float]]:
        """Return each entry's columns."""
        found: list[dict[str, float]] = [{"prompt_tokens_cut": text.cut} for text in texts]
        if self.clip is None or not any(prompts):
            return found
        targets = torch.stack([self._target(self.clip, prompt) for prompt in prompts])
        distances = clip_distance(self.clip, image, mask, targets).cpu()
        for score, prompt, distance in zip(found, prompts, distances, strict=True):
            if prompt:
                score["clip_distance"] = float(distance)
        return found

    def _errors(self, image: Tensor, mask: Tensor, params: ResolvedParams) -> list[EditError | None]:
        """Return each entry's error: no latent pixel to edit, or flagged by the safety checker."""
        widest = latent_mask(mask, self.networks.latent_size, params.mask_resize)
        errors: list[EditError | None] = []
        for one, is_edited in zip(image, widest.flatten(1).any(dim=1).tolist(), strict=True):
            if not is_edited:
                errors.append(EditError("the mask has no pixel at the latent's size; set mask_resize: cover"))
            elif self.safety is not None and params.safety_checker and self.safety.flagged(one):
                hint = "try another seed, or safety_checker: false"
                errors.append(Filtered(f"the safety checker flagged the edit; {hint}"))
            else:
                errors.append(None)
        return errors

    def _text(self, prompt: str, negative: bool = False) -> Text:
        if (prompt, negative) not in self._texts:
            if len(self._texts) >= MAX_TEXTS:
                self._texts.clear()
            encode = self.networks.negative if negative else self.networks.text
            self._texts[prompt, negative] = encode(prompt)
        return self._texts[prompt, negative]

    def _target(self, clip: Clip, prompt: str) -> Tensor:
        if prompt not in self._targets:
            if len(self._targets) >= MAX_TEXTS:
                self._targets.clear()
            self._targets[prompt] = clip.encode_text([prompt], truncate=True)[0]
        return self._targets[prompt]
