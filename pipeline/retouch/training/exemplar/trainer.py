"""The loop: samples in, updates out, the same whatever the number of workers. Knows no file, no job and no cluster.

Everything random follows from the seed and a sample's number, so a run that was stopped after any update goes on as if
it had not been; on another number of workers too. Sums over a batch that is split among workers round another way,
though: float32 is as near as that comes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from retouch.diffusion.noise import derive_seed
from retouch.editors.steady import steady_kernels
from retouch.errors import ConfigError, ManifestError
from retouch.jobs.train_params import TrainParams
from retouch.models.paint_by_example import LatentNetworks
from retouch.training.exemplar.data import Problem, Samples, share
from retouch.training.exemplar.distributed import Crew
from retouch.training.exemplar.loss import Painter, drops, prepare
from retouch.training.exemplar.task import UNREADABLE

WARMUP_START: Final = 1e-6  # of the learning rate, at the first update (as published)
LEAST_SEEN: Final = 100  # rows before which a share of failures says little; fewer where the manifest has fewer


@dataclass
class Progress:
    """How far a training is: all that is kept beside weights and optimizer."""

    step: int = 0  # updates that are done
    drawn: int = 0  # samples that they took
    curve: list[tuple[float, float]] = field(default_factory=list)  # loss and learning rate of each update
    problems: dict[str, Problem] = field(default_factory=dict)  # rows that were not learned from, by key


class Trainer:
    """Networks in training, in one worker of a crew.

    Args:
        networks: of ``start.load_start``, on the crew's device.
        samples: what they learn from.
        params: the knobs.
        seed: of all that is random.
        crew: this worker among all.
        max_failure_rate: share of rows seen that may turn out unreadable.
    """

    def __init__(
        self,
        networks: LatentNetworks,
        samples: Samples,
        params: TrainParams,
        seed: int,
        crew: Crew,
        max_failure_rate: float = 0.05,
    ) -> None:
        self.networks, self.samples, self.params, self.seed, self.crew = networks, samples, params, seed, crew
        self.max_failure_rate = max_failure_rate
        self.painter = Painter(networks, params.tokens).to(crew.device)
        self.painter.unet.train()
        if params.checkpointing:
            self.painter.unet.enable_gradient_checkpointing()
        self.adam = torch.optim.AdamW(
            self.trained().values(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self.average = {name: value.detach().clone() for name, value in self.trained().items()} if params.ema else {}
        self.progress = Progress()
        self._parallel = crew.parallel(self.painter)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that change, by name."""
        return {name: value for name, value in self.painter.named_parameters() if value.requires_grad}

    def run(self, after_step: Callable[[Trainer], None]) -> None:
        """Take the updates that are still to be taken.

        Raises:
            ConfigError: the loss is no number.
            ManifestError: too many rows cannot be read.
        """
        with steady_kernels(str(self.crew.device)):
            while self.progress.step < self.params.steps:
                self._step()
                after_step(self)

    @property
    def global_batch(self) -> int:
        """Samples an update, over all workers."""
        return self.crew.size * self.params.batch * self.params.accumulate

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs; tensors, numbers and names alone."""
        return {
            "trained": {name: value.detach() for name, value in self.trained().items()},
            "average": self.average,
            "adam": self.adam.state_dict(),
            "step": self.progress.step,
            "drawn": self.progress.drawn,
            "curve": torch.tensor(self.progress.curve, dtype=torch.float64).view(-1, 2),
            "problems": {key: (found.kind, found.reason) for key, found in self.progress.problems.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where a saved run stood."""
        self._put(state["trained"])
        self.average = {name: value.to(self.crew.device) for name, value in state["average"].items()}
        self.adam.load_state_dict(state["adam"])
        curve = [(float(loss), float(rate)) for loss, rate in state["curve"].tolist()]
        problems = {key: Problem(*found) for key, found in state["problems"].items()}
        self.progress = Progress(state["step"], state["drawn"], curve, problems)

    def finished(self) -> LatentNetworks:
        """The networks as they are to be written: averaged where they were averaged; no more training after this."""
        if self.average:
            self._put(self.average)
        self.painter.unet.eval()
        return self.networks

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained().items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.average:
            torch._foreach_lerp_(list(self.average.values()), list(self.trained().values()), 1 - self.params.ema)

    def _step(self) -> None:
        rate = learning_rate(self.progress.step, self.params)
        for group in self.adam.param_groups:
            group["lr"] = rate
        parts = self._shared(self.progress.drawn)
        self.samples.ask([number for part in parts for number in part])
        self.samples.ask([number for part in self._shared(self.progress.drawn + self.global_batch) for number in part])
        loss = sum(self._pass(part, last=part is parts[-1]) for part in parts)
        (total,) = self.crew.summed([loss])
        mean = total / self.crew.size
        if not math.isfinite(mean):
            raise ConfigError(f"the loss is {mean} at update {self.progress.step}; lower learning_rate")
        if self.params.clip_norm:
            nn.utils.clip_grad_norm_(self.trained().values(), self.params.clip_norm)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self._move_average()
        self.progress.step += 1
        self.progress.drawn += self.global_batch
        self.progress.curve.append((mean, rate))

    def _shared(self, first: int) -> list[list[int]]:
        return share(first, self.crew.rank, self.crew.size, self.params.batch, self.params.accumulate)

    def _pass(self, numbers: list[int], last: bool) -> float:
        """Gradients of one batch, added to what is there; its share of the step's loss."""
        made = self.crew.agreed(lambda: self.samples.take(numbers))
        self._note({key: problem for one in made for key, problem in one.rows.items()})
        seeds = [derive_seed(self.seed, "noise", number) for number in numbers]
        drop = drops(seeds, self.params.condition_drop, self.params.drop)
        given = prepare(self.networks, [one.example for one in made], seeds, drop)
        # Workers average their gradients with the last of a step's passes, and not with each.
        wait = contextlib.nullcontext() if last or self.crew.size == 1 else self._parallel.no_sync()  # type: ignore[operator]
        half = self.params.precision == "bfloat16"
        with wait:
            with torch.autocast(self.crew.device.type, torch.bfloat16, enabled=half):
                loss = self._parallel(given).mean() / self.params.accumulate
            loss.backward()
        return float(loss.detach())

    def _note(self, rows: Mapping[str, Problem | None]) -> None:
        """Keep what all workers found of their rows, and stop where too many cannot be read."""
        known = self.progress.problems
        news = {key: problem for key, problem in rows.items() if known.get(key) != problem}
        if not self.crew.summed([bool(news)])[0]:
            return
        for found in self.crew.gathered(news):
            for key, problem in found.items():
                if problem is None:
                    known.pop(key, None)
                else:
                    known[key] = problem
        seen = min(len(self.samples), max(self.progress.drawn + self.global_batch, LEAST_SEEN))
        failed = [f"{key}: {problem.reason}" for key, problem in known.items() if problem.kind == UNREADABLE]
        if len(failed) > self.max_failure_rate * seen:
            raise ManifestError(
                f"{len(failed)} of {seen} rows cannot be read, over max_failure_rate {self.max_failure_rate:.1%}: "
                f"{'; '.join(sorted(failed)[:3])}; mend them, or leave them out"
            )


def learning_rate(step: int, params: TrainParams) -> float:
    """Rate of an update by its number: rising in a line over ``warmup`` updates, then constant."""
    if step >= params.warmup:
        return params.learning_rate
    return params.learning_rate * (WARMUP_START + (1 - WARMUP_START) * step / params.warmup)
