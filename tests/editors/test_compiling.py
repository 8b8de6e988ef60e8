"""Compiled networks: the same function, settled when a job's networks are loaded."""

import shutil
from dataclasses import replace

import pytest
import torch
from retouch.cli.bench.subjects import subject
from retouch.editors.compiling import compiled, refuse_changed
from retouch.errors import ConfigError

from tests.helpers.tiny_editors import TinyUNet

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="a C++ compiler (g++) would run it")


def test_unasked_it_is_the_network_itself():
    network = TinyUNet()
    assert compiled(network, False) is network


@needs_compiler
def test_a_compiled_network_and_its_gradient_are_the_same_up_to_rounding():
    network = TinyUNet().requires_grad_(False)
    t, found = torch.tensor([5, 900]), []
    for one in (network, compiled(network, True)):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = one(x, t)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        found.append((out.detach(), grad))
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["blended_diffusion", "paint_by_example", "diffusionclip"])
def test_a_row_cannot_ask_for_what_was_settled_with_its_job(name):
    one = subject(name, "embedded", steps=2)
    batch = one.batch(1)
    one.editor.check_batch(batch)
    with pytest.raises(ConfigError, match="compile is settled"):
        one.editor.check_batch(replace(batch, params={"compile": True}))


def test_a_row_may_repeat_what_was_settled():
    refuse_changed({"compile": True}, True)
    refuse_changed({}, True)
