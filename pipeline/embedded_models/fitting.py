"""A resumable training loop: AdamW, warm-up, decay, EMA, bf16."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from retouch.models.embedded.files import save_checkpoint
from torch import Tensor, nn

log = logging.getLogger(__name__)
Part = tuple[Tensor, ...]  # of a batch, for one thread


@dataclass(frozen=True)
class Fit:
    """Length and rates of a training, in steps, so that results do not depend on the machine's speed."""

    steps: int
    learning_rate: float
    batch: int = 64
    warmup: int = 200  # steps
    decay_from: float = 0.5  # share of the steps after which the rate falls linearly to zero
    ema: float = 0.998
    seed: int = 1
    threads: int = 1  # on a CPU; each takes a part of the batch
    save_every: float = 120.0  # seconds


def fit(
    model: nn.Module,
    draw: Callable[[np.random.Generator, int], Sequence[Tensor]],
    loss: Callable[..., Tensor],
    options: Fit,
    state: Path,
    save: Callable[[nn.Module], None],
) -> nn.Module:
    """Train up to ``options.steps``, including those of earlier runs.

    Args:
        model: on its device; trained in place.
        draw: returns a batch of the given size, tensors with one entry per example.
        loss: returns a scalar for (model, *tensors of a part), under bf16 autocast.
        state: the checkpoint file, read at the start if it exists.
        save: called with the averaged model, regularly and at the end.

    Returns:
        The averaged model.
    """
    device = next(model.parameters()).device
    average = deepcopy(model).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    step = _resume(state, model, average, optimizer)
    torch.manual_seed(options.seed + step)
    rng = np.random.default_rng((options.seed, step))
    threads = 1 if device.type == "cuda" else options.threads
    saved = logged = time.monotonic()
    losses: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        while step < options.steps:
            rate = learning_rate(step, options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = [tensor.to(device) for tensor in draw(rng, options.batch)]
            parts = list(zip(*(tensor.chunk(threads) for tensor in batch), strict=True))
            losses.append(_step(model, optimizer, loss, parts, pool))
            step += 1
            _update(average, model, min(options.ema, (1 + step) / (10 + step)))
            now = time.monotonic()
            if now - logged > 60:
                log.info("step %d of %d images %d rate %.2e loss %.5f", step, options.steps, step * options.batch, rate,
                         np.mean(losses))  # fmt: skip
                losses, logged = [], now
            if now - saved > options.save_every:
                _save(state, model, average, optimizer, step)
                save(average)
                saved = now
    _save(state, model, average, optimizer, step)
    save(average)
    return average.eval()


def learning_rate(step: int, options: Fit) -> float:
    """Return the rate of a step: linear warm-up, constant, then a linear decay to zero."""
    falling = (1 - step / options.steps) / (1 - options.decay_from)
    return options.learning_rate * min(1.0, (step + 1) / options.warmup, falling)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    parts: Sequence[Part],
    pool: ThreadPoolExecutor,
) -> float:
    """Take one update and return its loss. Threads synchronise once per step instead of once per operation."""
    losses, gradients = zip(*pool.map(lambda part: _gradient(model, loss, part), parts), strict=True)
    for parameter, *found in zip(_trained(model), *gradients, strict=True):
        parameter.grad = torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(np.mean(losses))


def _gradient(model: nn.Module, loss: Callable[..., Tensor], part: Part) -> tuple[float, tuple[Tensor, ...]]:
    device = part[0].device.type
    if device == "cpu":
        torch.set_num_threads(1)
    with torch.autocast(device, torch.bfloat16):
        value = loss(model, *part)
    # With one token attention's softmax is constant, so queries and keys get no gradient.
    found = torch.autograd.grad(value, _trained(model), allow_unused=True, materialize_grads=True)
    return float(value.detach()), found


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def _update(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _save(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "ema": average.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint({**state, "step": step}, path)


def _resume(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load an earlier state if there is one. Return its step, else 0."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
