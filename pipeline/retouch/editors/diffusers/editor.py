"""Runs a pipeline of diffusers on uint8 batches, so that a row's edit depends on nothing but the row.

Cropping, resizing and compositing are the engine's: the pipeline always gets images of its own size, and what it does
outside the mask is not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Generator

from retouch.diffusion.noise import derive_seed
from retouch.editors import registry
from retouch.editors.diffusers.loading import Loaded, load
from retouch.editors.diffusers.params import Params
from retouch.editors.diffusers.prompts import PromptEncoder, is_guided
from retouch.editors.ranking import PromptDistance
from retouch.editors.runtime import deterministic_kernels, from_uint8, mask_from_bool, refuse_faults
from retouch.errors import ConfigError, EditError, Filtered, RowError
from retouch.imaging.regions import resize
from retouch.models.clip import load_clip
from retouch.schema import Batch, EditResult, Pixels

DEFAULT_SIDE: Final = 512  # of a pipeline whose networks name no size
MAX_RATIO: Final = 4.0  # of the longer side to the shorter of a rectangle: models are trained on little beyond


class Diffusers(registry.Diffusers):
    """The editor: a loaded pipeline, uint8 batches."""

    def __init__(self, loaded: Loaded, params: Params, device: str, ranker: PromptDistance | None = None) -> None:
        self.loaded, self.params, self.device, self.ranker = loaded, params, device, ranker
        self.prompts = PromptEncoder(loaded)
        self.max_batch = loaded.rows_per_call
        self.fills_masks = loaded.mask_argument is not None
        self._sides = _fixed_sides(loaded, params)
        self.image_size = max(self._sides)

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks.

        Raises:
            ConfigError: params that the pipeline cannot follow.
            WeightsError: weights that are missing, broken, or need a package that is not installed.
        """
        loaded = load(params, weights, device)
        ranker = PromptDistance(load_clip(weights["clip"], device)) if "clip" in weights else None
        return cls(loaded, params, device, ranker)

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """Return the network's height and width for a part of an image: about as many pixels as its own square."""
        if self.params.size != "aspect":
            return self._sides
        ratio = min(max(height / width, 1 / MAX_RATIO), MAX_RATIO)
        area, multiple = self._sides[0] * self._sides[1], self.loaded.family.multiple
        sides = (math.sqrt(area * ratio), math.sqrt(area / ratio))
        return (_multiple(sides[0], multiple), _multiple(sides[1], multiple))

    def prepare_exemplar(self, exemplar: Pixels, params: Mapping[str, Any]) -> Pixels:
        """Return the middle square of an exemplar [h,w,3], at the size that its encoder takes: [S,S,3]."""
        side = self.loaded.exemplar_side or self.image_size
        height, width = exemplar.shape[:2]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        return resize(np.ascontiguousarray(exemplar[top : top + short, left : left + short]), side, side)

    def check_batch(self, batch: Batch) -> None:
        """Check that the batch can be edited, without a forward pass.

        Raises:
            ConfigError: ``batch.params`` contradict each other or the pipeline.
            EditError: a row lacks an input or brings one that the pipeline does not read.
        """
        params = self.params.overridden(batch.params)
        params.lora_scales(self.loaded.adapters)
        call = self._settings(params)
        for argument in call:
            if argument not in self.loaded.arguments:
                raise ConfigError(f"{self.loaded.name} has no argument {argument}; leave it out of this row's params")
        self._check_steps(call)
        negatives = self._negatives(batch, params)
        if any(negatives) and not self._reads_negative(call):
            raise ConfigError(
                f"negative_prompt is not read by {self.loaded.name} at this guidance; "
                f"{'set true_cfg_scale above 1' if 'true_cfg_scale' in self.loaded.arguments else 'leave it empty'}"
            )
        if "control_image" in self.loaded.arguments and batch.control is None:
            raise EditError("the ControlNet needs a control image: give the manifest a control column")
        if (self.loaded.has_ip_adapter or self.loaded.redux is not None) and batch.exemplar is None:
            kind = "IP-Adapter" if self.loaded.has_ip_adapter else "Redux"
            raise EditError(f"{kind} needs an exemplar: give the manifest an exemplar column")

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; with ``clip_distance`` if the job has weights for ``clip``.

        An entry that the safety checker flagged has the error ``Filtered``.

        Raises:
            ConfigError, EditError: see ``check_batch``.
            EditError: an entry's result is not finite, or of one colour all over.
        """
        self.check_batch(batch)
        params = self.params.overridden(batch.params)
        if self.loaded.adapters:
            scales = params.lora_scales(self.loaded.adapters)
            self.loaded.pipe.set_adapters(list(self.loaded.adapters), scales)
        if self.loaded.has_ip_adapter:
            self.loaded.pipe.set_ip_adapter_scale(1.0 if params.exemplar_scale is None else params.exemplar_scale)
        rows = self.max_batch or len(batch)
        parts = [slice(start, start + rows) for start in range(0, len(batch), rows)]
        with torch.no_grad(), deterministic_kernels(self.device):
            return [result for part in parts for result in self._call(batch, part, params)]

    def _call(self, batch: Batch, part: slice, params: Params) -> list[EditResult]:
        """Call the pipeline with some entries of a batch."""
        source, mask, prompts = batch.image[part], batch.mask[part], list(batch.prompt[part])
        call = self._settings(params)
        given = call | self._images(batch, part) | self._size(source.shape[1:3])
        negatives = self._negatives(batch, params)[part]
        given |= self.prompts.arguments(
            prompts, negatives, call | {"lora_scales": params.lora_scales(self.loaded.adapters)}
        )
        if self.loaded.redux is not None and batch.exemplar is not None:
            tokens = [self._exemplar_tokens(exemplar, params) for exemplar in batch.exemplar[part]]
            given["prompt_embeds"] = torch.cat([given["prompt_embeds"], torch.cat(tokens)], dim=1)
        given["generator"] = [Generator("cpu").manual_seed(derive_seed(s, "diffusers")) for s in batch.seed[part]]
        output = self.loaded.pipe(**given, output_type="np")
        edited = np.asarray(output.images)
        if edited.ndim != 4 or len(edited) != len(source) or edited.shape[3] != 3:
            raise EditError(f"{self.loaded.name} gave images of shape {edited.shape} for {len(source)} rows")
        errors = _flagged(output, len(source))
        self._refuse_faults(edited, source, errors)
        images = [resize(one, *source.shape[1:3]) for one in _to_uint8(edited)]
        size = f"{edited.shape[2]}x{edited.shape[1]}"
        return [
            EditResult(image, self._scores(image, one_mask, prompt, size, call), error)
            for image, one_mask, prompt, error in zip(images, mask, prompts, errors, strict=True)
        ]

    def _settings(self, params: Params) -> dict[str, Any]:
        """Return the arguments of a call that params decide."""
        call = params.given_arguments()
        known, family = self.loaded.arguments, self.loaded.family
        if "strength" in known and "strength" not in call and family.strength is not None and self.loaded.mask_argument:
            call["strength"] = family.strength
        if params.control_scale is not None:
            call["controlnet_conditioning_scale"] = params.control_scale
        if "_auto_resize" in known:  # Kontext would choose one of 17 sizes of its own
            call["_auto_resize"] = False
        return call

    def _images(self, batch: Batch, part: slice) -> dict[str, Any]:
        """Return the arguments for images and masks, white where to paint, as Pillow images."""
        given: dict[str, Any] = {self.loaded.image_argument: _pillow(batch.image[part])}
        if self.loaded.mask_argument is not None:
            given[self.loaded.mask_argument] = _pillow(batch.mask[part, :, :, None] * np.uint8(255))
        if "control_image" in self.loaded.arguments and batch.control is not None:
            given["control_image"] = _pillow(batch.control[part])
        if batch.exemplar is not None and self.loaded.exemplar_argument is not None:
            given[self.loaded.exemplar_argument] = _pillow(batch.exemplar[part])
        return given

    def _exemplar_tokens(self, exemplar: Pixels, params: Params) -> Any:
        """Return Redux' tokens [1,T,C] of an exemplar [S,S,3], encoded alone."""
        redux = self.loaded.redux
        image = redux.encode_image(_pillow(exemplar[None]), self.device, 1)
        scale = 1.0 if params.exemplar_scale is None else params.exemplar_scale
        return redux.image_embedder(image).image_embeds * scale

    def _size(self, size: Sequence[int]) -> dict[str, Any]:
        height, width = int(size[0]), int(size[1])
        wanted = {"height": height, "width": width, "max_area": height * width}
        return {name: value for name, value in wanted.items() if name in self.loaded.arguments}

    def _negatives(self, batch: Batch, params: Params) -> list[str]:
        own = batch.negative_prompt or [""] * len(batch)
        return [text or params.negative_prompt for text in own]

    def _reads_negative(self, call: dict[str, Any]) -> bool:
        return "negative_prompt" in self.loaded.arguments and is_guided(self.loaded, call)

    def _check_steps(self, call: dict[str, Any]) -> None:
        """Raise ConfigError if strength leaves no step."""
        steps = call.get("num_inference_steps", self.loaded.default("num_inference_steps"))
        strength = call.get("strength", self.loaded.default("strength"))
        if steps is not None and strength is not None and int(steps * strength) < 1:
            raise ConfigError(f"strength {strength:g} of {steps} steps leaves none; give more of either")

    def _refuse_faults(self, edited: Any, source: Pixels, errors: Sequence[RowError | None]) -> None:
        good = [place for place, error in enumerate(errors) if error is None]
        if good:
            image = torch.from_numpy(edited[good].astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1
            refuse_faults(image, from_uint8(source[good], "cpu"), "another precision may help")

    def _scores(self, image: Pixels, mask: Any, prompt: str, size: str, call: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"network_size": size, "prompt_tokens_cut": self.prompts.tokens_cut(prompt, call)}
        if self.ranker is not None:
            pixels = from_uint8(image[None], self.device)[0]
            distance = self.ranker.of(pixels, mask_from_bool(mask[None], self.device)[0], prompt)
            found |= {} if distance is None else {"clip_distance": distance}
        return found


def _fixed_sides(loaded: Loaded, params: Params) -> tuple[int, int]:
    """Return the network's height and width where the image does not decide.

    Raises:
        ConfigError: the job's size is no multiple of what the networks need.
    """
    multiple, size = loaded.family.multiple, params.size
    if isinstance(size, int):
        sides = (size, size)
    elif isinstance(size, tuple):
        sides = size
    else:
        native = _native_side(loaded)
        sides = (native, native)
    if any(side % multiple for side in sides):
        raise ConfigError(f"size {params.size}: {loaded.name} needs multiples of {multiple}")
    return sides


def _native_side(loaded: Loaded) -> int:
    """Return the side of the square that a pipeline was trained on, in pixels."""
    pipe, multiple = loaded.pipe, loaded.family.multiple
    factor = getattr(pipe, "vae_scale_factor", 8)
    latent = getattr(pipe, "default_sample_size", None)
    if latent is None:
        latent = getattr(getattr(loaded.denoiser, "config", None), "sample_size", None)
    found = loaded.family.native or (latent * factor if isinstance(latent, int) else DEFAULT_SIDE)
    return _multiple(found, multiple)


def _multiple(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def _pillow(images: Pixels) -> list[Any]:
    """Return [B,H,W,3] or [B,H,W,1] uint8 as Pillow images: what all pipelines take."""
    from diffusers.image_processor import VaeImageProcessor

    found: list[Any] = VaeImageProcessor.numpy_to_pil(images / 255)
    return found


def _to_uint8(images: Any) -> Pixels:
    """[B,H,W,3] in [0, 1] -> uint8: nearest level, ties to even."""
    found: Pixels = (np.clip(images.astype(np.float64), 0, 1) * 255).round().astype(np.uint8)
    return found


def _flagged(output: Any, count: int) -> list[RowError | None]:
    """Return the error of each row that the safety checker flagged."""
    flags = getattr(output, "nsfw_content_detected", None)
    flags = [False] * count if flags is None else [bool(flag) for flag in np.ravel(flags)]
    error = Filtered("the safety checker flagged the edit; try another seed, or safety_checker: false")
    return [error if flag else None for flag in flags]
