"""The training loop of exemplar networks, the same for any number of workers.

Everything random depends only on the seed and a sample's number, so a run that was stopped after any update resumes as
if it had not been, also with another number of workers. Sums over a batch that is split among workers round
differently, so those results agree only up to float32 rounding.
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
from retouch.editors.runtime import deterministic_kernels
from retouch.errors import ConfigError, ManifestError
from retouch.jobs.train_params import TrainParams
from retouch.models.paint_by_example import PaintByExampleNetworks
from retouch.training.exemplar.data import Problem, Samples, worker_batches
from retouch.training.exemplar.distributed import WorkerGroup
from retouch.training.exemplar.loss import ExemplarLoss, dropped_conditions, prepare_batch
from retouch.training.exemplar.task import UNREADABLE

WARMUP_START: Final = 1e-6  # of the learning rate, at the first update (as published)
MIN_SEEN: Final = 100  # rows that the failure rate is at least taken of; all rows of a shorter manifest


@dataclass
class Progress:
    """How far a training is: its state apart from weights and optimizer."""

    step: int = 0  # updates done
    drawn: int = 0  # samples used
    curve: list[tuple[float, float]] = field(default_factory=list)  # loss and learning rate of each update
    problems: dict[str, Problem] = field(default_factory=dict)  # rows that were not used, by key


class Trainer:
    """Networks in training, in one worker of a group.

    Args:
        networks: of ``initial_weights.load_start``, on the group's device.
        samples: the training samples.
        params: the job's params.
        seed: of all that is random.
        group: this worker's group.
        max_failure_rate: the largest share of the rows seen that may be unreadable.
    """

    def __init__(
        self,
        networks: PaintByExampleNetworks,
        samples: Samples,
        params: TrainParams,
        seed: int,
        group: WorkerGroup,
        max_failure_rate: float = 0.05,
    ) -> None:
        self.networks, self.samples, self.params, self.seed, self.group = networks, samples, params, seed, group
        self.max_failure_rate = max_failure_rate
        self.loss = ExemplarLoss(networks, params.tokens).to(group.device)
        self.loss.unet.train()
        if params.checkpointing:
            self.loss.unet.enable_gradient_checkpointing()
        self.adam = torch.optim.AdamW(
            self.trained().values(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self.average = {name: value.detach().clone() for name, value in self.trained().items()} if params.ema else {}
        self.progress = Progress()
        self._parallel = group.parallel(self.loss)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: value for name, value in self.loss.named_parameters() if value.requires_grad}

    def run(self, after_step: Callable[[Trainer], None]) -> None:
        """Take the remaining updates.

        Raises:
            ConfigError: the loss is not finite.
            ManifestError: too many rows cannot be read.
        """
        with deterministic_kernels(str(self.group.device)):
            while self.progress.step < self.params.steps:
                self._step()
                after_step(self)

    @property
    def global_batch(self) -> int:
        """Samples per update, over all workers."""
        return self.group.size * self.params.batch * self.params.accumulate

    def state(self) -> dict[str, Any]:
        """Return the state for ``restore``: tensors, numbers and names only."""
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
        """Load the state of an earlier run."""
        self._load_trained(state["trained"])
        self.average = {name: value.to(self.group.device) for name, value in state["average"].items()}
        self.adam.load_state_dict(state["adam"])
        curve = [(float(loss), float(rate)) for loss, rate in state["curve"].tolist()]
        problems = {key: Problem(*found) for key, found in state["problems"].items()}
        self.progress = Progress(state["step"], state["drawn"], curve, problems)

    def result(self) -> PaintByExampleNetworks:
        """Return the trained networks, with averaged weights if ``ema`` is set. Training cannot continue after this."""
        if self.average:
            self._load_trained(self.average)
        self.loss.unet.eval()
        return self.networks

    @torch.no_grad()
    def _load_trained(self, values: Mapping[str, Tensor]) -> None:
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
        batches = self._batches(self.progress.drawn)
        following = self._batches(self.progress.drawn + self.global_batch)
        self.samples.prefetch([number for batch in (*batches, *following) for number in batch])
        loss = sum(self._pass(batch, last=batch is batches[-1]) for batch in batches)
        (total,) = self.group.sum([loss])
        mean = total / self.group.size
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

    def _batches(self, first: int) -> list[list[int]]:
        """Return this worker's batches of the step that begins with sample ``first``."""
        return worker_batches(first, self.group.rank, self.group.size, self.params.batch, self.params.accumulate)

    def _pass(self, numbers: list[int], last: bool) -> float:
        """Add one batch's gradients to those of the step. Return its part of the step's loss."""
        samples = self.group.succeed_or_fail_together(lambda: self.samples.take(numbers))
        self._record_problems({key: problem for sample in samples for key, problem in sample.rows.items()})
        seeds = [derive_seed(self.seed, "noise", number) for number in numbers]
        dropped = dropped_conditions(seeds, self.params.condition_drop, self.params.drop)
        batch = prepare_batch(self.networks, [sample.example for sample in samples], seeds, dropped)
        # Workers average their gradients once per step, in its last pass.
        synchronised = contextlib.nullcontext() if last or self.group.size == 1 else self._parallel.no_sync()  # type: ignore[operator]
        half = self.params.precision == "bfloat16"
        with synchronised:
            with torch.autocast(self.group.device.type, torch.bfloat16, enabled=half):
                loss = self._parallel(batch).mean() / self.params.accumulate
            loss.backward()
        return float(loss.detach())

    def _record_problems(self, rows: Mapping[str, Problem | None]) -> None:
        """Record all workers' problems with rows, and stop if too many rows cannot be read."""
        known = self.progress.problems
        changed = {key: problem for key, problem in rows.items() if known.get(key) != problem}
        if not self.group.sum([bool(changed)])[0]:
            return
        for worker_changes in self.group.gather(changed):
            for key, problem in worker_changes.items():
                if problem is None:
                    known.pop(key, None)
                else:
                    known[key] = problem
        seen = min(len(self.samples), max(self.progress.drawn + self.global_batch, MIN_SEEN))
        failed = [f"{key}: {problem.reason}" for key, problem in known.items() if problem.kind == UNREADABLE]
        if len(failed) > self.max_failure_rate * seen:
            raise ManifestError(
                f"{len(failed)} of {seen} rows cannot be read, over max_failure_rate {self.max_failure_rate:.1%}: "
                f"{'; '.join(sorted(failed)[:3])}; fix them or leave them out"
            )


def learning_rate(step: int, params: TrainParams) -> float:
    """Return the learning rate of an update: rising linearly over ``warmup`` updates, then constant."""
    if step >= params.warmup:
        return params.learning_rate
    return params.learning_rate * (WARMUP_START + (1 - WARMUP_START) * step / params.warmup)
