"""Trains the family's CLIP on views as in guidance: masked, blurred, noised, warped and attacked.

The losses: which caption of a fixed bank fits a masked place, which caption of the batch fits a whole scene, and plain
cross-entropy on shape and on colour, without which the contrastive loss learns colour alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from retouch.models.embedded.data import in_chunks
from retouch.models.embedded.files import save_json, save_weights
from retouch.models.embedded.scenes import COLOURS, NONE, SHAPES, ground_prompt, object_prompt
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from embedded_models.train_judge import judge_example
from embedded_models.views import Views, seen_views
from embedded_models.words import BANK, BLOB, CONTEXT_LENGTH, PROMPTS, vocabulary_size, write_merges

log = logging.getLogger(__name__)
FIRST_SEED: Final = 1_000_000
MERGES: Final = "bpe_merges.txt.gz"
IMAGE_SIZE: Final = 64  # twice the scenes' side: the ResNet halves it five times

Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) to eps


@dataclass(frozen=True)
class ClipTraining:
    """Data and length of the CLIP's training."""

    minutes: float = 12.0
    places: int = 40_000
    batch: int = 128
    learning_rate: float = 2e-3
    easy: float = 0.5  # share of the time until views and attacks reach their full difficulty
    radius: float = 1.0  # L2 length of the attack, in the [0, 1] scale of a 32 px image
    seed: int = 3


@dataclass(frozen=True)
class Places:
    """Scenes with a place and labels; index -1 if no caption of the bank fits."""

    images: Tensor  # [N, 3, 32, 32] uint8
    masks: Tensor  # [N, 1, 32, 32] bool
    place: Tensor  # [N] index into BANK of the mask's content
    whole: Tensor  # [N] index into BANK of a scene's only shape
    caption: Tensor  # [N, context] tokens of the whole scene's caption
    shape: Tensor  # [N] index into SHAPES, len(SHAPES) if none
    colour: Tensor  # [N] index into COLOURS, len(COLOURS) if none

    def at(self, index: Tensor) -> Places:
        """Return the places at these indices."""
        return Places(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def to(self, device: str) -> Places:
        """Return the places on a device."""
        return Places(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def clip_config() -> dict[str, Any]:
    """Return the content of ``clip.json``. Mean 0 and std 1, so that unnormalised ranking sees the same as guidance."""
    vision = {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "patch_size": None}
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": vocabulary_size(), "width": 128, "heads": 4, "layers": 2}
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "tokenizer": {"merges": MERGES, "context_length": CONTEXT_LENGTH},
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "image_size": IMAGE_SIZE,
    }


def train_clip(
    out: Path,
    device: str,
    options: ClipTraining,
    network: Network | None = None,
    start: dict[str, Tensor] | None = None,
) -> open_clip.CLIP:
    """Train and save. ``network`` adds its own predictions of x_0 to the views; ``start`` continues from weights."""
    torch.manual_seed(options.seed)
    config = clip_config()
    out.mkdir(parents=True, exist_ok=True)
    write_merges(out / MERGES)
    tokenizer = SimpleTokenizer(bpe_path=str(out / MERGES), context_length=CONTEXT_LENGTH)
    places = labelled_places(options.places, FIRST_SEED, tokenizer).to(device)
    bank = tokenizer(list(BANK)).to(device)
    clip = open_clip.CLIP(**config["model_cfg"]).to(device)
    if start:
        clip.load_state_dict(start)
    heads = nn.ModuleList([nn.Linear(128, len(SHAPES) + 1), nn.Linear(128, len(COLOURS) + 1)]).to(device)
    optimizer = torch.optim.AdamW([*clip.parameters(), *heads.parameters()], options.learning_rate, weight_decay=0.05)
    began, step = time.monotonic(), 0
    clip.visual.to(memory_format=torch.channels_last)
    while (progress := (time.monotonic() - began) / (options.minutes * 60)) < 1:
        rate = options.learning_rate * min(1.0, (step + 1) / 100, max(0.0, (1 - progress) / 0.6))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = places.at(torch.randint(len(places.place), (options.batch,), device=device))
        difficulty = 1.0 if start else min(1.0, progress / options.easy)
        views = seen_views(batch.images.float().div(127.5).sub(1), batch.masks, IMAGE_SIZE, network, difficulty)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss, right = _loss(clip, heads, bank, batch, views, options.radius * difficulty)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            log.info("clip step %d progress %.2f loss %.3f right %.3f", step, progress, loss.item(), right)
        if step % 500 == 0:
            save_weights(clip, out / "clip.safetensors")
    save_json(config, out / "clip.json")
    save_weights(clip.eval(), out / "clip.safetensors")
    return clip


def _loss(
    clip: open_clip.CLIP,
    heads: nn.ModuleList,
    bank: Tensor,
    batch: Places,
    views: Views,
    radius: float,
) -> tuple[Tensor, float]:
    """Return the step's loss, and the share of places with the right shape and colour."""
    words = F.normalize(clip.encode_text(bank).float(), dim=-1)
    scale = clip.logit_scale.exp().clamp(5, 20)
    labels = torch.where(views.masked, batch.place, batch.whole)
    attacked = attack(clip, words.detach() * scale.detach(), views, labels, radius)
    unit = F.normalize(clip.encode_image(attacked).float(), dim=-1)
    logits = scale * unit @ words.T
    loss = F.cross_entropy(logits, labels, ignore_index=-1)
    shape = torch.where(views.masked | (batch.whole >= 0), batch.shape, -1)
    colour = torch.where(views.masked | (batch.whole >= 0), batch.colour, -1)
    loss = loss + F.cross_entropy(heads[0](10 * unit), shape, ignore_index=-1)
    loss = loss + 0.3 * F.cross_entropy(heads[1](10 * unit), colour, ignore_index=-1)
    scenes = ~views.masked & (batch.caption[:, 0] > 0)
    if scenes.sum() > 1:
        loss = loss + 0.3 * _contrastive(clip, unit[scenes], batch.caption[scenes], scale)
    known = (labels >= 0) & (labels < len(PROMPTS))
    return loss, float((logits.argmax(1) == labels)[known].float().mean())


def _contrastive(clip: open_clip.CLIP, unit: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss over whole scenes; equal captions are each other's positives."""
    words = F.normalize(clip.encode_text(captions), dim=-1)
    logits = scale * unit @ words.T
    same = (captions[:, None] == captions[None]).all(dim=-1).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def attack(clip: open_clip.CLIP, words: Tensor, views: Views, labels: Tensor, radius: float) -> Tensor:
    """Return the views [B, 3, S, S] with the first half moved by up to ``radius`` towards a wrong caption.

    One step along the gradient, as in guidance: training on it makes the CLIP robust against guidance's own steps.
    """
    half = len(labels) // 2
    if radius == 0 or half == 0:
        return views.pixels
    pixels = views.pixels[:half].detach().requires_grad_()
    wrong = torch.randint(len(words), (half,), device=pixels.device)
    logits = F.normalize(clip.encode_image(pixels).float(), dim=-1) @ words.float().T
    towards = F.cross_entropy(logits, wrong, reduction="sum")
    away = F.cross_entropy(logits, labels[:half], ignore_index=-1, reduction="sum")
    (grad,) = torch.autograd.grad(towards - away, pixels)
    grad = grad / grad.flatten(1).norm(dim=1).clamp(min=1e-8).view(-1, 1, 1, 1)
    zoom = pixels.shape[-1] / 32  # twice the side has twice the L2 length
    length = radius * zoom * torch.rand(half, 1, 1, 1, device=pixels.device)
    return torch.cat([(pixels - length * grad).detach(), views.pixels[half:]])


def labelled_places(count: int, first_seed: int, tokenizer: SimpleTokenizer) -> Places:
    """Draw ``count`` places."""
    chunks = in_chunks(_place_chunk, count, first_seed)
    images, masks, labels = (np.concatenate(parts) for parts in zip(*(chunk[:3] for chunk in chunks), strict=True))
    captions = [caption for chunk in chunks for caption in chunk[3]]
    known = {text: index for index, text in enumerate(dict.fromkeys(["", *captions]))}
    tokens = tokenizer(list(known))
    tokens[0] = 0  # no caption: not even a start token
    place, whole, shape, colour = torch.from_numpy(labels).unbind(1)
    caption = tokens[torch.tensor([known[text] for text in captions])]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Places(pixels, torch.from_numpy(masks)[:, None], place, whole, caption, shape, colour)


def _place_chunk(first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return images, masks, [place, whole, shape, colour] indices, and captions of whole scenes ("" if unfit)."""
    examples = [judge_example(seed) for seed in range(first, first + count)]
    labels = []
    captions = []
    for example in examples:
        scene, fit = example.scene, example.kind not in ("blob", "two")
        ground = ground_prompt(scene.ground, scene.texture)
        shape = BLOB if example.kind == "blob" else example.shape
        place = ground if example.kind in ("empty", "cut") else object_prompt(shape, example.colour)
        single = object_prompt(scene.objects[0].shape, scene.objects[0].colour) if len(scene.objects) == 1 else ""
        whole = place if fit and len(scene.objects) == 1 and single == place else NONE
        where = [BANK.index(text) if text in BANK else -1 for text in (place, whole)]
        kinds = [(*SHAPES, NONE).index(example.shape), (*COLOURS, NONE).index(example.colour)]
        labels.append([*where, *kinds])
        captions.append(scene.caption if fit else "")
    images, masks = np.stack([e.image for e in examples]), np.stack([e.mask for e in examples])
    return images, masks, np.array(labels), captions
