"""The timer for the parts of a pass, forward and backward."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from retouch.cli.bench.profiler import PartTimer
from torch import Tensor, nn


def work(seconds: float) -> None:
    """Keep the processor busy: on a CPU the timer counts processor time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


class Slow(torch.autograd.Function):
    """The identity, with a wait each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.backward_seconds = backward
        work(forward)
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        work(ctx.backward_seconds)
        return grad, None, None


class Waits(nn.Module):
    """A network that takes its time."""

    def __init__(self, forward: float, backward: float, as_tuple: bool = False) -> None:
        super().__init__()
        self.seconds, self.as_tuple = (forward, backward), as_tuple

    def forward(self, x: Tensor) -> Any:
        out = Slow.apply(x, *self.seconds)
        return (out,) if self.as_tuple else out


def test_forward_and_backward_time_goes_to_the_part_that_took_it() -> None:
    unet, clip = Waits(0.02, 0.04), Waits(0.01, 0.03)
    timer = PartTimer("cpu")
    timer.watch({"unet": [unet], "clip": [clip]})
    timer.start()
    x = torch.ones(2, requires_grad=True)
    eps = unet(x)
    work(0.05)
    torch.autograd.grad((clip(eps + x) + x).sum(), x)  # the network's input is used elsewhere too, as x_t is
    seconds = timer.stop()
    assert seconds["unet"] >= 0.06
    assert seconds["clip"] >= 0.04
    assert seconds["rest"] >= 0.05
    assert set(seconds) == {"unet", "clip", "rest"}
    assert timer.calls == {"unet": 1, "clip": 1}


def test_a_function_can_be_a_part_and_nothing_is_lost_between_parts() -> None:
    timer = PartTimer("cpu")
    warped = timer.around("augmentation", lambda x, by: Slow.apply(x, by, by))
    timer.start()
    began = time.process_time()
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(warped(x, 0.02).sum(), x)
    seconds = timer.stop()
    assert seconds["augmentation"] >= 0.04
    assert sum(seconds.values()) == pytest.approx(time.process_time() - began, abs=0.01)


def test_a_network_that_gives_a_tuple_without_gradients_counts_too() -> None:
    vae = Waits(0.01, 0.0, as_tuple=True)
    timer = PartTimer("cpu")
    timer.watch({"vae": [vae]})
    vae(torch.ones(2))  # before the start: nobody asks
    for calls in (1, 2):
        timer.start()
        for _ in range(calls):
            vae(torch.ones(2))
        assert timer.stop()["vae"] >= 0.01 * calls
        assert timer.calls["vae"] == calls
