"""The fine-tuning loop: a network learns to generate what a text asks for from the source images' latents.

Everything random depends only on the seed and the number of the batch, so a run that was stopped after any batch
resumes as if it had not been (Kim, Kwon, Ye 2022, sections 3.2 and 4; algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retouch.diffusion.noise import derive_seed
from retouch.diffusion.sampling import Denoise, ddim, denoiser, sample
from retouch.diffusion.schedule import named
from retouch.diffusion.timesteps import generation_path, inversion_path
from retouch.editors.diffusionclip.sampler import recomputed
from retouch.editors.runtime import deterministic_kernels
from retouch.errors import ConfigError
from retouch.jobs.finetune_params import FinetuneParams
from retouch.models.unet import Network
from retouch.training.finetune.losses import Losses, LossInputs


@dataclass(frozen=True)
class TrainingData:
    """N training images, their latents and texts."""

    x0: Tensor  # [N,3,S,S] in [-1, 1]
    latent: Tensor  # [N,3,S,S] at level t_0, by the source network
    mask: Tensor  # [N,1,S,S], 1 = may change
    direction: Tensor  # [N,D] unit
    target: Tensor  # [N,D]


@dataclass
class Progress:
    """How far a run is: its state apart from weights and optimizer."""

    update: int = 0  # batches done
    curves: list[dict[str, float]] = field(default_factory=list)  # per batch: mean terms, total and learning rate


class Trainer:
    """A network in training.

    Args:
        network: a copy of the source network, on its device; its weights are changed in place.
        data: on the network's device.
        losses: the loss terms.
        params: the job's params.
        seed: of the order of images and of the views.
    """

    def __init__(self, network: Network, data: TrainingData, losses: Losses, params: FinetuneParams, seed: int) -> None:
        self.network, self.data, self.losses, self.params, self.seed = network, data, losses, params, seed
        self.module = network.module.requires_grad_(requires_grad=True)
        self.schedule = named(network.schedule)
        self.adam = torch.optim.Adam(self.module.parameters(), lr=params.learning_rate)
        self.progress = Progress()
        self.batches = -(-len(data.x0) // params.batch)

    @property
    def total(self) -> int:
        """Batches in all; a batch is one update in full mode and ``n_train`` in efficient mode."""
        return self.batches * self.params.iterations

    def run(self, after_batch: Callable[[Trainer], None]) -> None:
        """Train from ``progress`` to the end; ``after_batch`` is called after every batch."""
        device = str(self.data.x0.device)
        with deterministic_kernels(device):
            while self.progress.update < self.total:
                number = self.progress.update
                for group in self.adam.param_groups:
                    group["lr"] = learning_rate(number, self.batches, self.params)
                terms = self._batch(self._indices(number), number)
                rate = self.adam.param_groups[0]["lr"]
                self.progress.curves.append({"batch": number, **terms, "learning_rate": rate})
                self.progress.update += 1
                after_batch(self)

    def state(self) -> dict[str, Any]:
        """Return the state for ``restore``: tensors, numbers and names only."""
        return {
            "module": self.module.state_dict(),
            "adam": self.adam.state_dict(),
            "update": self.progress.update,
            "curves": self.progress.curves,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load the state of an earlier run."""
        self.module.load_state_dict(state["module"])
        self.adam.load_state_dict(state["adam"])
        self.progress = Progress(state["update"], list(state["curves"]))

    def _indices(self, number: int) -> list[int]:
        """Return the images of a batch: each image once per iteration, in the iteration's random order."""
        iteration, place = divmod(number, self.batches)
        order = np.random.default_rng(derive_seed(self.seed, "order", iteration)).permutation(len(self.data.x0))
        return [int(i) for i in order[place * self.params.batch : (place + 1) * self.params.batch]]

    def _batch(self, indices: Sequence[int], number: int) -> dict[str, float]:
        """Take a batch's updates. Return its mean terms."""
        m = self.data
        seeds = [derive_seed(self.seed, "views", number, i) for i in indices]
        inputs = LossInputs(m.x0[indices], m.mask[indices], m.direction[indices], m.target[indices], seeds)
        latent, denoise = m.latent[indices], self._denoiser()
        means: list[dict[str, float]] = []
        for x, identity_of in (
            self._full(denoise, latent) if self.params.mode == "full" else self._each(denoise, latent)
        ):
            terms = self.losses.terms(x, inputs, identity_of)
            total = self.losses.total(terms)
            self._update(total.mean())
            named_terms = {**terms, "total": total}
            means.append({name: float(value.detach().mean()) for name, value in named_terms.items()})
        return {name: float(np.mean([mean[name] for mean in means])) for name in means[0]}

    def _full(self, denoise: Denoise, latent: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the final image, differentiable through every step."""
        walk = recomputed(denoise) if self.params.checkpointing else denoise
        path = generation_path(self.params.t_0, self.params.n_train)
        yield sample(walk, latent, path, step=ddim(self.schedule)).x, None

    def _each(self, denoise: Denoise, latent: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield each step's x0, differentiable through that step alone; weights are updated before the next step."""
        step, x = ddim(self.schedule), latent
        for t, t_next in pairwise(generation_path(self.params.t_0, self.params.n_train)):
            stepped = step(x, denoise(x, t), t, t_next, None)
            x = stepped.x.detach()
            yield stepped.x0, x if self.params.identity_parity else None

    def _update(self, loss: Tensor) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(f"the loss is {value} at batch {self.progress.update}; lower learning_rate")
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        if self.params.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.params.clip_norm)
        self.adam.step()

    def _denoiser(self) -> Denoise:
        return denoiser(self.module, self.schedule, learn_sigma=self.network.learn_sigma)


def learning_rate(batch: int, batches: int, params: FinetuneParams) -> float:
    """Return a batch's learning rate: multiplied by ``lr_factor`` every ``lr_every`` batches, or once per iteration."""
    return params.learning_rate * params.lr_factor ** (batch // (params.lr_every or batches))


@torch.no_grad()
def invert(network: Network, x0: Tensor, t_0: int, n_inv: int, batch: int = 8) -> Tensor:
    """Return the latents [N,3,S,S] of images [N,3,S,S] by DDIM inversion, padded to one batch size.

    Padding keeps kernels at one shape, so that a latent does not depend on how many images there are.
    """
    path = inversion_path(t_0, n_inv)
    return _in_batches(network, x0, path, batch)


@torch.no_grad()
def translate(network: Network, latent: Tensor, t_0: int, n_gen: int, batch: int = 8) -> Tensor:
    """Return the images [N,3,S,S], in about [-1, 1], that the network generates from latents [N,3,S,S]."""
    return _in_batches(network, latent, generation_path(t_0, n_gen), batch)


def _in_batches(network: Network, x: Tensor, path: Sequence[int], batch: int) -> Tensor:
    schedule = named(network.schedule)
    denoise = denoiser(network.module, schedule, learn_sigma=network.learn_sigma)
    found = []
    with deterministic_kernels(str(x.device)):
        for part in x.split(batch):
            padded = torch.cat([part, part[-1:].expand(batch - len(part), *part.shape[1:])])
            found.append(sample(denoise, padded, path, step=ddim(schedule)).x[: len(part)])
    return torch.cat(found) if found else x
