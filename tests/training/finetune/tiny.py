"""What a fine-tuning needs, tiny: networks of random weights, images, a manifest, tasks and jobs that name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from retouch.diffusion.noise import Noise
from retouch.jobs.finetune_params import FinetuneParams
from retouch.models.unet import Network
from retouch.training.finetune.losses import Losses, LossInputs
from retouch.training.finetune.target import TargetTask
from retouch.training.finetune.texts import Texts
from retouch.training.finetune.trainer import Trainer, TrainingData
from torch import Tensor

from tests.helpers.datasets import write_dataset
from tests.helpers.families import write_unet
from tests.helpers.tiny_clip import write_own_layout
from tests.helpers.tiny_editors import TinyUNet, tiny_networks

SIZE = 14  # of the images that tensors stand for; the tiny encoder's own
ROWS = 7
# Of files: the tiny CLIP reads twelve tokens, so its texts are words of few letters and in no templates.
PARAMS: dict[str, Any] = {
    "t_0": 400,
    "n_inv": 4,
    "n_train": 3,
    "n_test": 3,
    "images": 5,
    "test_images": 2,
    "iterations": 3,
    "batch": 2,
    "learning_rate": 1e-3,
    "templates": "none",
    "views": 3,
    "masked_share": 0.4,
    "save_every": 2,
}
BATCHES = 9


def params(**changes: Any) -> FinetuneParams:
    """For tensors: quick, with a plain view and a warped one."""
    small = {"t_0": 300, "n_inv": 4, "n_train": 3, "iterations": 3, "batch": 2, "learning_rate": 1e-3, "views": 2}
    return FinetuneParams(**{**small, **changes})


def network(learn_sigma: bool = False) -> Network:
    """A few convolutions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(TinyUNet(6 if learn_sigma else 3).eval(), SIZE, learn_sigma, "cosine")


def images(count: int) -> Tensor:
    """Smooth pictures [N,3,S,S] in [-1, 1], each another."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear", align_corners=True)


def masks(count: int) -> Tensor:
    """White on the left half, [N,1,S,S]."""
    mask = torch.zeros(count, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    return mask


def embeddings(count: int, seed: int, unit: bool) -> Tensor:
    drawn = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1) if unit else drawn


def inputs(count: int = 2) -> LossInputs:
    """One side of the losses for ``count`` images."""
    direction, target = embeddings(count, 2, unit=True), embeddings(count, 3, unit=False)
    return LossInputs(images(count), masks(count), direction, target, list(range(count)))


def data(count: int = 5) -> TrainingData:
    """A trainer's images; the latents are noise."""
    latent = Noise(range(count)).normal("latent", (3, SIZE, SIZE))
    return TrainingData(
        images(count), latent, masks(count), embeddings(1, 2, True).repeat(count, 1),
        embeddings(1, 3, False).repeat(count, 1),
    )  # fmt: skip


def losses(p: FinetuneParams, identity: Callable[[Tensor, Tensor], Tensor] | None = None) -> Losses:
    """With the golden set's kind of encoder."""
    return Losses(p, tiny_networks().clip.encode_image, SIZE, identity)


def trainer(p: FinetuneParams, identity: Any = None, *, learn_sigma: bool = False, count: int = 5) -> Trainer:
    """A network at its start."""
    return Trainer(network(learn_sigma), data(count), losses(p, identity), p, seed=7)


def colour_distance(edited: Tensor, source: Tensor) -> Tensor:
    """Stands for ArcFace: square distance of the average colours, [B]."""
    return (edited.mean(dim=(2, 3)) - source.mean(dim=(2, 3))).square().sum(dim=1)


def write_networks(folder: Path) -> dict[str, str]:
    """Files of a pixel UNet and a CLIP, role to path."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "unet": write_unet(folder / "unet.safetensors"),
        "clip": write_own_layout(folder, tower="resnet")[0],
    }


def write_rows(folder: Path, rows: int = ROWS, **columns: Any) -> Path:
    """Images, masks and a manifest whose rows bring their own texts."""
    texts = {"source_prompt": ["red"] * rows, "prompt": ["cat"] * rows}
    return write_dataset(folder, rows, **{**texts, **columns})


def task(folder: Path, files: dict[str, str], manifest: Path, **changes: Any) -> TargetTask:
    """One target of these."""
    data: dict[str, Any] = {
        "name": "cat",
        "manifests": (str(manifest),),
        "output": str(folder / "out"),
        "weights": files,
        "seed": 3,
        "texts": Texts("red", "cat"),
    }
    return TargetTask(**{**data, **changes, "params": {**PARAMS, **changes.get("params", {})}})


def job(folder: Path, files: dict[str, str], manifest: Path | str, **changes: Any) -> dict[str, Any]:
    """A job file's content: two targets."""
    data: dict[str, Any] = {
        "kind": "finetune",
        "name": "tiny",
        "manifest": str(manifest),
        "output": str(folder / "out"),
        "seed": 3,
        "weights": files,
        "params": PARAMS,
        "targets": [
            {"name": "cat", "source_prompt": "red", "prompt": "cat"},
            {"name": "own", "params": {"iterations": 2}},
        ],
    }
    return {**data, **changes}
