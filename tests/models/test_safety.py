"""The safety checker flags what diffusers' own flags, and touches no image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from retouch.errors import WeightsError
from retouch.models.paint_by_example import CLIP_MEAN, CLIP_STD
from retouch.models.safety import load_safety
from safetensors.torch import save_file
from transformers import CLIPConfig

CONFIG: dict[str, Any] = {
    "projection_dim": 8,
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
    },
    "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
}


def checker(threshold: float = 0.3, special: float = 2.0) -> StableDiffusionSafetyChecker:
    """Random concepts, each of which an image is to come nearer than ``threshold``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = StableDiffusionSafetyChecker(CLIPConfig(**CONFIG))
        with torch.no_grad():
            module.concept_embeds.normal_()
            module.special_care_embeds.normal_()
            module.concept_embeds_weights.fill_(threshold)
            module.special_care_embeds_weights.fill_(special)
    return module.eval()


def write_checker(folder: Path, module: StableDiffusionSafetyChecker) -> str:
    """``safety_checker`` of a published folder, with its old names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name.replace("vision_model.", "vision_model.vision_model.", 1): v for name, v in module.state_dict().items()
    }
    state["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder / "model.safetensors")


@pytest.mark.parametrize("special", [2.0, 0.2])
def test_it_flags_what_diffusers_flags(tmp_path: Path, special: float) -> None:
    images = torch.rand(12, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 2, 12).view(
        -1, 1, 1, 1
    )
    images = images.clamp(0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    probe = checker()
    embedded = torch.nn.functional.normalize(probe.visual_projection(probe.vision_model((images - mean) / std)[1]))
    best = (embedded @ torch.nn.functional.normalize(probe.concept_embeds).T).max(dim=1).values
    module = checker(float(best.median().detach()), special)  # half of them lie above
    ours = load_safety(write_checker(tmp_path, module))
    found = []
    for image in images:
        _, theirs = module((image - mean)[None] / std, [torch.ones(1)])
        found.append(ours.flagged(image * 2 - 1))
        assert found[-1] == theirs[0]
    assert 0 < sum(found) < len(found)


def test_a_checker_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    path = Path(write_checker(tmp_path / "whole", checker()))
    (tmp_path / "bare.safetensors").write_bytes(path.read_bytes())
    (tmp_path / "other").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "other" / "model.safetensors")
    (tmp_path / "other" / "config.json").write_text(json.dumps(CONFIG))
    for given, line in [
        (tmp_path / "bare.safetensors", r"has no config\.json next to it"),
        (tmp_path / "other" / "model.safetensors", "is not a safety checker: .* missing"),
    ]:
        with pytest.raises(WeightsError, match=line) as caught:
            load_safety(str(given))
        assert "\n" not in str(caught.value)
