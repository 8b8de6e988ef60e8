"""Half precision is inside a network, never at its ends."""

import pytest
import torch
from retouch.cli.bench.subjects import subject
from retouch.editors.precision import encoder_in_precision, in_precision

from tests.helpers.tiny_editors import TinyUNet

X, T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900])


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
