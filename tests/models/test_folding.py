"""Batch norms folded into convolutions: the same function of images, and of gradients."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import ModifiedResNet
from retouch.models.folding import fold_batch_norms
from torch import nn


def seen(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = network(x)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    return out.detach(), grad


def test_clips_resnet_is_the_same_function_without_its_batch_norms() -> None:
    torch.manual_seed(0)
    network = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=8, image_size=64, width=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if it had been trained
            for values, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                assert values is not None
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.eval().requires_grad_(requires_grad=False)
    x = torch.rand(2, 3, 64, 64)
    wanted = seen(network, x)
    fold_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())
    for found, expected in zip(seen(network, x), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_norm_that_follows_no_convolution_stays() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    fold_batch_norms(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
