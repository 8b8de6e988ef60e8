"""Half precision is inside a network, never at its ends."""

import pytest
import torch

from pipeline.editors.precision import in_precision
from tests.editors.tiny import TinyUNet

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
