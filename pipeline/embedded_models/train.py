"""Trains the shipped networks: ``python -m embedded_models.train [--part PART]``.

The parts are judge, clip, unet, harden, vae, exemplar, inpaint, text_to_image, or all of them. The order matters:
judge, CLIP and UNet are trained on drawings; ``harden`` continues the CLIP on the UNet's predictions from noise;
``exemplar`` and ``inpaint`` work on the latents of ``vae``; ``text_to_image`` starts from the networks of ``inpaint``.
``embedded_models.evaluate``, ``evaluate_exemplar`` and ``evaluate_inpaint`` measure the results. Run it from
``pipeline/`` or in the development environment.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from retouch.models.embedded.files import SHIPPED, save_json
from retouch.models.pixel_unet import load_pixel_unet
from safetensors.torch import load_file

from embedded_models.train_clip import ClipTraining, train_clip
from embedded_models.train_exemplar import ExemplarTraining, train_exemplar
from embedded_models.train_inpaint import InpaintTraining, train_inpaint, train_text_to_image
from embedded_models.train_judge import JudgeTraining, train_judge
from embedded_models.train_unet import UNetTraining, train_unet
from embedded_models.train_vae import VaeTraining, train_vae

FAMILY: Final = {
    "name": "shapes",
    "image_size": 32,
    "unet": "unet.safetensors",
    "clip": "clip.safetensors",
    "judge": "judge.safetensors",
    "blue": "blue.safetensors",  # the domains, trained by jobs/finetune.yaml
    "green": "green.safetensors",
    "pink": "pink.safetensors",
    "exemplar_vae": "exemplar_vae.safetensors",
    "exemplar_unet": "exemplar_unet.safetensors",
    "exemplar_encoder": "exemplar_encoder.safetensors",
    "merges": "bpe_merges.txt.gz",
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "schedule": "cosine",
    "timesteps": 1000,
    "prediction": "v",
}


@dataclass(frozen=True)
class Run:
    """The options of one call."""

    out: Path  # the family's folder; the diffusers folders go next to it
    work: Path  # drawings and resumable states; grows to about 1.1 GB
    device: str
    minutes: float | None  # for each timed part; None: the part's default


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.train", description=__doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--minutes", type=float, help="training time of the CLIP, the hardening or the UNet")
    parser.add_argument(
        "--out", type=Path, default=SHIPPED, help="folder of the family; diffusers folders go next to it"
    )
    parser.add_argument("--work", type=Path, default=Path(".cache/embedded"), help="drawings and resumable states")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = Run(given.out, given.work, given.device, given.minutes)
    save_json(FAMILY, run.out / "family.json")
    for part in PARTS if given.part == "all" else (given.part,):
        PARTS[part](run)


def _judge(run: Run) -> None:
    train_judge(run.out, run.device, JudgeTraining())


def _clip(run: Run) -> None:
    options = ClipTraining()
    train_clip(run.out, run.device, replace(options, minutes=run.minutes or options.minutes))


def _unet(run: Run) -> None:
    options = UNetTraining()
    if run.device == "cuda":  # four times the batch in little more time per step
        options = replace(options, batch=256, scenes=400_000, learning_rate=1.2e-3)
    train_unet(run.out, run.work, run.device, replace(options, minutes=run.minutes or options.minutes))


def _harden(run: Run) -> None:
    options = ClipTraining(learning_rate=1e-3, seed=4, minutes=8.0)
    unet, _ = load_pixel_unet(run.out / "unet.safetensors")
    start = {name: tensor.float() for name, tensor in load_file(run.out / "clip.safetensors").items()}
    options = replace(options, minutes=run.minutes or options.minutes)
    train_clip(run.out, run.device, options, network=unet.to(run.device), start=start)


def _vae(run: Run) -> None:
    train_vae(run.out, run.work, run.device, VaeTraining())


def _exemplar(run: Run) -> None:
    train_exemplar(run.out, run.work, run.device, ExemplarTraining())


def _inpaint(run: Run) -> None:
    train_inpaint(run.out, run.work, run.device, InpaintTraining())


def _text_to_image(run: Run) -> None:
    train_text_to_image(run.out, run.work, run.device, InpaintTraining())


PARTS: Final[dict[str, Callable[[Run], None]]] = {
    "judge": _judge,
    "clip": _clip,
    "unet": _unet,
    "harden": _harden,
    "vae": _vae,
    "exemplar": _exemplar,
    "inpaint": _inpaint,
    "text_to_image": _text_to_image,
}

if __name__ == "__main__":
    main()
