"""Stable Diffusion's safety checker: flags images close to the embeddings of unsafe concepts.

The published code blackens flagged images; here the caller decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retouch.errors import WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict, reason
from retouch.models.exemplar_encoder import POSITION_IDS
from retouch.models.paint_by_example import CLIP_MEAN, CLIP_STD, weights_file

# Added to all other scores if a special-care concept is present, so that they are judged more strictly.
SPECIAL_CARE = 0.01


@dataclass(frozen=True)
class SafetyChecker:
    """A frozen checker in eval mode."""

    module: Any  # diffusers' StableDiffusionSafetyChecker, of which only the weights are used
    image_size: int

    @torch.no_grad()
    def flagged(self, image: Tensor) -> bool:
        """Return whether any concept is present in one image [3,H,W] in [-1, 1], H = W."""
        module, size = self.module, (self.image_size, self.image_size)
        x = (image[None].clamp(-1, 1) + 1) / 2
        x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        x = (x - x.new_tensor(CLIP_MEAN).view(3, 1, 1)) / x.new_tensor(CLIP_STD).view(3, 1, 1)
        embedded = module.visual_projection(module.vision_model(x)[1])
        special = _scores(embedded, module.special_care_embeds, module.special_care_embeds_weights)
        concepts = _scores(embedded, module.concept_embeds, module.concept_embeds_weights)
        stricter = SPECIAL_CARE if any(round(score, 3) > 0 for score in special) else 0.0
        return any(round(score + stricter, 3) > 0 for score in concepts)


def load_safety(path: str, device: str = "cpu") -> SafetyChecker:
    """Read a checker in diffusers' layout.

    Args:
        path: the weights; the configuration is their ``.json`` sidecar, or ``config.json`` in their folder.

    Raises:
        WeightsError: missing, broken, unsafe or another network.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    cards = [card for card in (Path(path).with_suffix(".json"), Path(path).with_name("config.json")) if card.is_file()]
    if not cards:
        raise WeightsError(f"safety checker {path} has no config.json next to it; take it from the same folder")
    try:
        config = CLIPConfig.from_dict(json.loads(cards[0].read_text()))
        with torch.device("meta"):
            module: Any = StableDiffusionSafetyChecker(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{cards[0]} describes no safety checker: {reason(error)}") from error
    state = {
        name.replace("vision_model.vision_model.", "vision_model.", 1): value
        for name, value in read_state_dict(path).items()
        if not name.endswith(POSITION_IDS)
    }
    load_strictly(module, state, path, "a safety checker")
    embeddings = module.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    module.to(device).eval().requires_grad_(requires_grad=False)
    return SafetyChecker(module, int(config.vision_config.image_size))


def safety_file(weights: Mapping[str, str]) -> str | None:
    """Return the checker of a job's weights: the role ``safety``, or a diffusers folder's own; None if there is none.

    Raises:
        WeightsError: the folder's own has no weights.
    """
    if "safety" in weights:
        return weights["safety"]
    folder = Path(weights.get("model_index", "")).parent / "safety_checker"
    return weights_file(folder) if "model_index" in weights and folder.is_dir() else None


def _scores(embedded: Tensor, concepts: Tensor, thresholds: Tensor) -> list[float]:
    """Return by how much one embedding [1,D] exceeds each concept's threshold."""
    cosines = F.normalize(embedded) @ F.normalize(concepts).T
    found: list[float] = (cosines[0] - thresholds).double().tolist()
    return found
