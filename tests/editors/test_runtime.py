"""What all editors share at run time: pixels, deterministic kernels, precision, compilation."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from retouch.cli.bench.subjects import subject
from retouch.editors.runtime import (
    compiled,
    deterministic_kernels,
    encoder_in_precision,
    from_uint8,
    in_precision,
    mask_from_bool,
    refuse_changed_compile,
    refuse_faults,
    to_uint8,
)
from retouch.errors import ConfigError, EditError

from tests.helpers.tiny_editors import TinyUNet

X, T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900])


def test_every_level_survives_the_way_in_and_out():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    x = from_uint8(levels, "cpu")
    assert (x.min().item(), x.max().item(), x.dtype, tuple(x.shape)) == (-1.0, 1.0, torch.float32, (1, 3, 16, 16))
    assert np.array_equal(to_uint8(x), levels)


def test_levels_are_the_nearest_with_ties_to_even_and_clamped():
    x = torch.tensor([-3.0, -0.999, 0.0, 0.999, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_uint8(x)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_masks_true_is_one():
    mask = np.array([[[True, False]]])
    assert mask_from_bool(mask, "cpu").tolist() == [[[[1.0, 0.0]]]]


def test_what_only_a_fault_gives_is_refused_with_the_entries_that_have_it():
    source = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    refuse_faults(source, source, "mend it")
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = source.clone()
        broken[1, 2, 3, 0] = value
        with pytest.raises(EditError, match=r"not finite \(entry 1 of 3\); mend it"):
            refuse_faults(broken, source, "mend it")
    flat = source.clone()
    flat[0], flat[2] = torch.tensor([0.1, 0.2, 0.3])[:, None, None], 5.0
    with pytest.raises(EditError, match=r"one colour all over \(entry 0, 2 of 3\)"):
        refuse_faults(flat, source, "mend it")


def test_one_colour_is_no_fault_where_the_source_has_one_or_a_single_number_differs():
    source = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    refuse_faults(torch.zeros_like(source), torch.full_like(source, 0.5), "")
    nearly = torch.zeros_like(source)
    nearly[0, 0, 0, 0] = 1e-6
    refuse_faults(nearly, source, "")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_cpu_computes_with_one_thread(two_threads):
    with deterministic_kernels("cpu"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_another_device_is_left_alone(two_threads):
    with deterministic_kernels("cuda:0"):
        assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError), deterministic_kernels("cpu"):
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_float32_is_the_network_itself():
    network = TinyUNet()
    assert in_precision(network, "float32", "cpu") is network


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_comes_out_in_float32_and_nearly_the_same(precision):
    network, seen = TinyUNet(), []
    network.leave.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    out = in_precision(network, precision, "cpu")(X, T)
    assert seen == [getattr(torch, precision)]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, network(X, T), rtol=0.05, atol=0.05)
    assert not torch.equal(out, network(X, T))


def test_clip_in_half_precision_gives_float32_and_a_gradient_that_is_nearly_the_same():
    clip = subject("blended_diffusion", "embedded", steps=2).editor.clip
    assert encoder_in_precision(clip, "float32", "cpu") is clip
    found = []
    for encoder in (clip, encoder_in_precision(clip, "bfloat16", "cpu")):
        x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = encoder.encode_image(x)
        (grad,) = torch.autograd.grad(out[:, 0].sum(), x)
        found.append((out.detach(), grad))
        assert out.dtype == torch.float32
        assert encoder.image_size == 64
    for exact, half in zip(*found, strict=True):
        assert torch.nn.functional.cosine_similarity(exact.flatten(), half.flatten(), dim=0) > 0.98
        assert not torch.equal(exact, half)


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="a C++ compiler (g++) would run it")


def test_unasked_it_is_the_network_itself():
    network = TinyUNet()
    assert compiled(network, False) is network


@pytest.mark.slow
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
    refuse_changed_compile({"compile": True}, True)
    refuse_changed_compile({}, True)
