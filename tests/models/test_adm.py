from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.adm import ADM, ADM256, ADM512, ADM_SMALL, ADMConfig, build_adm
from retouch.models.unet import adm_network
from torch import Tensor

from tests.helpers.golden_set import adm_config, assert_within, golden, weights_of

TINY = ADMConfig(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(8,),
    num_head_channels=16, num_classes=3,
)  # fmt: skip


def network(name: str) -> tuple[ADM, dict[str, Tensor], str]:
    """A golden network with its vectors and tolerance; all of a set share the unconditional one's weights."""
    tensors, entry = golden(name)
    weights = weights_of(golden("adm_uncond.safetensors")[0]) | weights_of(tensors)
    module = adm_network(weights, adm_config(entry["config"]), name).module
    assert isinstance(module, ADM)
    return module, tensors, entry["tolerance"]["all"]


def tiny(config: ADMConfig = TINY) -> ADM:
    """Random weights, those of the head included, which a fresh network has small."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_adm(config)


def noisy(config: ADMConfig = TINY, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, config.image_size, config.image_size, generator=generator)
    return x, torch.tensor([999, 500, 0][:batch])


@torch.no_grad()
@pytest.mark.parametrize("name", ["adm_uncond.safetensors", "adm_classcond.safetensors", "iddpm_afhq.safetensors"])
def test_outputs_are_those_of_the_authors_code(name: str) -> None:
    module, tensors, tolerance = network(name)
    out = module(tensors["in.x"], tensors["in.t"], tensors.get("in.y"))
    assert_within(out, tensors["out.y"], tolerance, name)


@torch.no_grad()
def test_labels_left_out_give_what_a_network_without_labels_gives() -> None:
    tensors, entry = golden("adm_classcond.safetensors")
    conditional, unconditional = network("adm_classcond.safetensors")[0], network("adm_uncond.safetensors")[0]
    out = conditional(tensors["in.x"], tensors["in.t"])
    assert_within(out, unconditional(tensors["in.x"], tensors["in.t"]), entry["tolerance"]["all"])
    assert not torch.allclose(out, tensors["out.y"], rtol=1e-2)


def test_labels_for_a_network_without_classes_are_an_error() -> None:
    module = tiny(replace(TINY, num_classes=0))
    with pytest.raises(ValueError, match="no classes"):
        module(*noisy(batch=1), torch.tensor([0]))


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [(ADM256, 552_814_086, 566), (ADM512, 558_997_638, 645), (ADM_SMALL, 93_563_910, 362)],
)
def test_the_published_networks_have_their_published_number_of_parameters(
    config: ADMConfig, parameters: int, tensors: int
) -> None:
    with torch.device("meta"):
        module = build_adm(config)
    assert sum(p.numel() for p in module.parameters()) == parameters
    attentions = sum(1 for name in module.state_dict() if name.endswith("to_q.weight"))
    assert len(module.state_dict()) - 4 * attentions == tensors  # q, k and v are one tensor in the files


@torch.no_grad()
def test_a_finest_level_of_half_width_keeps_the_sinusoid_of_full_width() -> None:
    config = replace(TINY, num_channels=64, channel_mult=(0.5, 1))
    module = tiny(config)
    assert module.unet.conv_in.out_channels == 32
    assert module.unet.time_embedding.linear_1.in_features == 64
    assert module(*noisy(config)).shape == (3, 6, 16, 16)


@torch.no_grad()
def test_without_learned_sigma_there_is_only_eps() -> None:
    assert tiny(replace(TINY, learn_sigma=False))(*noisy()).shape == (3, 3, 16, 16)


@torch.no_grad()
def test_time_may_be_int_or_float_and_one_for_all() -> None:
    module, (x, t) = tiny(), noisy()
    assert torch.equal(module(x, t), module(x, t.float()))
    assert torch.equal(module(x, torch.tensor(500)), module(x, torch.full((3,), 500)))


def test_gradients_reach_x_also_through_checkpointing() -> None:
    x, t = noisy()
    gradients = []
    for module in (tiny(), tiny()):
        if gradients:
            module.unet.enable_gradient_checkpointing()
        module.requires_grad_(requires_grad=False)
        inputs = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(module(inputs, t).square().sum(), inputs)[0])
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_a_file_of_another_width_is_named_with_what_differs() -> None:
    tensors, entry = golden("adm_uncond.safetensors")
    config = adm_config(entry["config"])
    wider = replace(config, num_channels=2 * config.num_channels)
    with pytest.raises(WeightsError, match="of another shape") as error:
        adm_network(weights_of(tensors), wider, "x.pt")
    assert str(error.value).startswith("x.pt is not this UNet: ")
