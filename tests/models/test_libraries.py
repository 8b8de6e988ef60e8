"""Networks load without what their libraries import for others, and the libraries stay whole for whoever wants them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from retouch.models import libraries
from retouch.models.clip import load_clip
from retouch.models.embedded.files import SHIPPED

HEAVY = ("torch._dynamo", "transformers", "timm", "scipy", "sklearn", "sympy", "matplotlib", "skimage")

LOADS = f"""
import json, sys
from retouch.models.clip import load_clip
from retouch.models.unet import load_unet
load_unet({str(SHIPPED / "unet.safetensors")!r})
load_clip({str(SHIPPED / "clip.safetensors")!r})
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""

WHOLE = """
from retouch.models import libraries
assert libraries.unet_2d()
assert libraries.open_clip_model().CLIP
import torchvision
assert torchvision.ops.nms  # the package ran after all
import open_clip
from open_clip.hf_model import transformers
from open_clip.timm_model import timm
assert transformers and timm
assert open_clip.get_tokenizer("ViT-B-16")
from diffusers import UNet2DModel
from diffusers.models.unets import UNet1DModel
assert UNet2DModel is libraries.unet_2d()
"""


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_embedded_networks_load_without_what_they_do_not_need() -> None:
    assert json.loads(in_a_process(LOADS)) == []


@pytest.mark.slow
def test_both_libraries_are_whole_for_whoever_imports_them_afterwards() -> None:
    in_a_process(WHOLE)


def test_a_clip_is_the_one_that_the_whole_library_builds() -> None:
    import open_clip

    path = SHIPPED / "clip.safetensors"
    lean = load_clip(str(path))
    config = json.loads(Path(path).with_suffix(".json").read_text())
    whole = open_clip.CLIP(**config["model_cfg"]).eval()
    whole.load_state_dict(lean.model.state_dict())
    x = torch.rand(2, 3, lean.image_size, lean.image_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lean.encode_image(x, normalise=False), whole.encode_image(x))


def test_the_constants_are_open_clips() -> None:
    assert len(libraries.open_clip_constants().OPENAI_DATASET_MEAN) == 3
