"""What the UNet is given, how it is guided and where the walk goes are the original authors'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from retouch.diffusion.noise import Noise
from retouch.diffusion.sampling import Network
from retouch.diffusion.schedule import named, scaled_linear
from retouch.editors.paint_by_example.params import Params
from retouch.editors.paint_by_example.sampler import (
    Condition,
    conditioned,
    edit,
    guided,
    latent_mask,
    sample_latent,
    square_exemplar,
)
from retouch.editors.runtime import from_uint8, to_uint8
from retouch.models.checkpoint import load_strictly
from retouch.models.ldm_keys import UNET, convert_unet
from retouch.models.paint_by_example import CLIP_MEAN, CLIP_STD
from torch import Tensor

from tests.helpers.golden_set import assert_within, golden, tolerance, weights_of
from tests.helpers.tiny_editors import GivenDraws
from tests.helpers.tiny_paint_by_example import tiny, unet_keywords

PREPROCESS, SAMPLING = "pbe_preprocess.safetensors", "pbe_sampling.safetensors"


def golden_network(file: str) -> tuple[Network, list[tuple[Tensor, Tensor, Tensor]]]:
    """The golden set's UNet, and what it was given."""
    tensors, entry = golden(file)
    unet = UNet2DConditionModel(**unet_keywords(entry["config"])).eval()
    load_strictly(unet, convert_unet(weights_of(tensors, f"model.{UNET}")), file, "the tiny UNet")
    unet.requires_grad_(requires_grad=False)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen.append((x, t, context))
        return unet(x, t, context).sample

    return network, seen


def golden_condition(tensors: Mapping[str, Tensor]) -> Condition:
    """Of the golden walks."""
    return Condition(
        tensors["in.cond"], tensors["in.learnable_vector"], tensors["in.z_inpaint"], tensors["in.mask_latent"]
    )


def of_step(prose: str, k: int) -> str:
    """The README's tolerance at step k."""
    number = float(prose.split("<=")[1].split("*")[0])
    return f"max|a-b| <= {number * (k + 1):.3e} * max|ref|"


def test_the_readme_still_states_the_walks_tolerance_so() -> None:
    prose = golden(SAMPLING)[1]["tolerance"]["all"]
    assert "(k+1)" in prose
    assert tolerance(of_step(prose, 1)).of_max == 2 * tolerance(of_step(prose, 0)).of_max > 0


@pytest.mark.parametrize("which", ["ddim", "plms"])
@torch.no_grad()
def test_every_walk_is_the_original_authors(which: str) -> None:
    tensors, entry = golden(SAMPLING)
    config, limit = entry["config"], entry["tolerance"]["all"]
    schedule = scaled_linear(config["timesteps"])
    shape = tensors["in.x_T"].shape[1:]
    for scale in config["scales"]:
        for eta in (0.0, 0.7) if which == "ddim" else (None,):
            name = f"out.{which}.scale{scale}" + ("" if eta is None else f".eta{eta}")
            assert f"{name}.x" in tensors
            network, seen = golden_network(config["unet_file"])
            denoise = guided(network, golden_condition(tensors), torch.tensor([scale]))
            path: list[Tensor] = []
            params = Params(steps=config["ddim_steps"], sampler=which, eta=eta or 0.0)
            draws = GivenDraws(step=list(tensors["in.noise"]) if eta else [])
            end = sample_latent(
                denoise, tensors["in.x_T"], schedule, params, draws, lambda x, t, path=path: path.append(x)
            )
            assert end.shape[1:] == shape
            for k, x in enumerate(path):
                assert_within(x, tensors[f"{name}.x"][k], of_step(limit, k), f"{name} step {k}")
            assert torch.equal(end, path[-1])
            assert [int(t[0]) for _, t, _ in seen] == tensors[f"{name}.t_seen"].tolist()


@torch.no_grad()
def test_guidance_sees_what_the_original_gives_its_unet() -> None:
    tensors, entry = golden(SAMPLING)
    network, seen = golden_network(entry["config"]["unet_file"])
    scale = max(entry["config"]["scales"])
    denoise = guided(network, golden_condition(tensors), torch.tensor([scale]))
    t = int(tensors[f"out.ddim.scale{scale}.eta0.0.t_seen"][0])
    eps = denoise(tensors["in.x_T"], t).eps
    x, _, context = seen[0]
    assert torch.equal(x, tensors["out.cfg.unet_input"])
    assert torch.equal(context, tensors["out.cfg.context"])
    assert_within(eps, tensors["out.cfg.eps"], of_step(entry["tolerance"]["all"], 0))


def test_every_entry_has_its_own_scale_and_one_alone_needs_no_second_pass() -> None:
    network, seen = golden_network("pbe_unet.safetensors")
    gen = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=gen)

    width = golden("pbe_unet.safetensors")[1]["config"]["context_dim"]
    condition = Condition(drawn(3, 1, width), drawn(1, 1, width), drawn(3, 4, 8, 8), torch.ones(3, 1, 8, 8))
    x = drawn(3, 4, 8, 8)

    def eps(*scales: float) -> Tensor:
        return guided(network, condition, torch.tensor(scales))(x, 500).eps

    mixed, ones, fives, zeros = eps(0.0, 1.0, 5.0), eps(1.0, 1.0, 1.0), eps(5.0, 5.0, 5.0), eps(0.0, 0.0, 0.0)
    assert [len(given[0]) for given in seen] == [6, 3, 6, 6]
    torch.testing.assert_close(mixed, torch.stack([zeros[0], ones[1], fives[2]]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fives, zeros + 5 * (ones - zeros), rtol=1e-4, atol=1e-4)


def test_masks_and_images_are_prepared_as_the_original_authors_do() -> None:
    tensors, entry = golden(PREPROCESS)
    source = from_uint8(tensors["in.image_u8"][None].numpy(), "cpu")
    edited = (tensors["in.mask_u8"] > 127).float()[None, None]  # half and more of white is edited
    exact = "max|a-b| <= 1e-6"
    assert entry["tolerance"]["out.mask, out.image"].endswith("1e-6")
    assert_within(source, tensors["out.image"], exact, "image")
    assert_within(1 - edited, tensors["out.mask"], exact, "mask")
    assert_within(source * (1 - edited), tensors["out.inpaint_image"], exact, "masked image")
    height, width = (side // entry["config"]["latent_factor"] for side in entry["config"]["image_size_hw"])
    small = latent_mask(1 - edited, (height, width), "bilinear")
    assert_within(small, tensors["out.mask_latent_antialias_false"], entry["tolerance"]["mask_latent"])
    soft = 1 - tensors["in.mask_u8"].float()[None] / 255  # the bench's loader does not threshold
    assert_within(soft, tensors["out.test_bench_mask"], exact)
    assert_within(source[0] * soft, tensors["out.test_bench_inpaint_image"], exact)


def test_decoded_images_become_levels_within_the_originals_truncation() -> None:
    tensors, _ = golden(PREPROCESS)
    ours = torch.from_numpy(to_uint8(tensors["in.decoded"])[0]).int()
    assert_within(ours / 255, tensors["out.decoded_01"][0].permute(1, 2, 0), "max|a-b| <= 0.0020")  # the nearest level
    assert set((ours - tensors["out.decoded_u8"].int()).unique().tolist()) <= {0, 1}  # theirs cuts


def test_an_exemplar_is_squashed_as_the_original_does() -> None:
    tensors, entry = golden(PREPROCESS)
    size = entry["config"]["clip_size"]
    pixels = tensors["in.reference_u8"].permute(2, 0, 1)[None].float() / 255
    squashed = square_exemplar(pixels, size, "squash")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    seen = ((squashed - mean) / std)[:, :, ::7, ::7]
    assert_within(seen, tensors["out.reference_stride7"], entry["tolerance"]["reference"])


def test_an_exemplar_is_cropped_to_the_middle_of_its_longer_side() -> None:
    pixels = torch.zeros(1, 3, 40, 100)
    pixels[..., 30:70] = 1.0  # a square in the middle
    assert square_exemplar(pixels, 40, "crop").min() == 1.0
    assert square_exemplar(pixels.mT, 40, "crop").min() == 1.0
    assert square_exemplar(pixels, 40, "squash").min() == 0.0
    assert square_exemplar(pixels, 28, "crop")[..., 1:-1].min() > 0.9


def test_the_masks_resize_has_the_published_sums() -> None:
    mask = torch.zeros(1, 1, 512, 512)
    mask[:, :, 100:301, 60:333] = 1  # rows 100 to 300, columns 60 to 332
    small = latent_mask(1 - mask, (64, 64), "bilinear")
    assert set((1 - small).unique().tolist()) == {0.0, 0.25, 0.5, 1.0}
    assert float((1 - small).sum()) == 879.75
    assert float((1 - latent_mask(1 - mask, (64, 64), "nearest")).sum()) == 850


SIZE = 16


def arranged(count: int = 2) -> dict[str, Any]:
    """Arguments of an edit."""
    gen = torch.Generator().manual_seed(3)
    mask = torch.zeros(count, 1, SIZE, SIZE)
    mask[:, :, 4:12, 4:12] = 1
    return {
        "source": torch.rand(count, 3, SIZE, SIZE, generator=gen) * 2 - 1,
        "mask": mask,
        "exemplar": torch.rand(count, 3, 28, 28, generator=gen),
        "scale": torch.full((count,), 3.0),
        "draws": Noise(list(range(count))),
    }


@torch.no_grad()
def test_the_unet_never_sees_what_the_mask_hides() -> None:
    networks, given = tiny(), arranged()
    params = Params(posterior="mode")
    plain = conditioned(networks, given["source"], given["mask"], given["exemplar"], params, given["draws"])
    hidden = torch.where(given["mask"] == 1, torch.full_like(given["source"], 0.9), given["source"])
    again = conditioned(networks, hidden, given["mask"], given["exemplar"], params, given["draws"])
    assert torch.equal(plain.masked, again.masked)
    grey = networks.vae.encode(given["source"] * (1 - given["mask"])).latent_dist.mode() * networks.scaling_factor
    assert torch.equal(plain.masked, grey)  # the hole is mid-grey
    assert plain.keep[0, 0, 4, 4] == 0.0
    assert plain.keep[0, 0, 0, 0] == 1.0


@torch.no_grad()
def test_the_posterior_is_drawn_from_the_requests_own_stream_or_not_at_all() -> None:
    networks, given = tiny(), arranged()

    def masked(how: str, seeds: list[int]) -> Tensor:
        params = Params(posterior=how)
        return conditioned(networks, given["source"], given["mask"], given["exemplar"], params, Noise(seeds)).masked

    assert torch.equal(masked("sample", [0, 1]), masked("sample", [0, 1]))
    assert torch.equal(masked("sample", [0, 1])[0], masked("sample", [0, 2])[0])
    assert not torch.equal(masked("sample", [0, 1])[1], masked("sample", [0, 2])[1])
    assert torch.equal(masked("mode", [0, 1]), masked("mode", [2, 3]))


@pytest.mark.parametrize("sampler", ["plms", "ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("tokens", ["class", "all"])
@torch.no_grad()
def test_every_sampler_and_both_contexts_end_in_an_image(sampler: str, tokens: str) -> None:
    networks, given = tiny(), arranged()
    seen: list[int] = []
    params = Params(steps=4, sampler=sampler, tokens=tokens)
    image = edit(networks, **given, params=params, record=lambda _, t: seen.append(t))
    assert image.shape == given["source"].shape
    assert image.isfinite().all()
    assert len(seen) == 4
    assert named(networks.schedule) is not None


@torch.no_grad()
def test_polarity_order_and_condition_all_reach_the_result() -> None:
    networks, given = tiny(), arranged()
    params = Params(steps=2, sampler="ddim")

    def edited(**changes: Any) -> Tensor:
        return edit(networks, **{**given, "draws": Noise([0, 1]), **changes}, params=params)

    plain = edited()
    assert torch.equal(plain, edited())
    assert not torch.allclose(plain, edited(mask=1 - given["mask"]))
    assert not torch.allclose(plain, edited(exemplar=given["exemplar"].flip(0)))
    assert not torch.allclose(plain, edited(scale=torch.tensor([0.0, 0.0])))
    before = networks.encoder.uncond_vector.clone()
    networks.encoder.uncond_vector.zero_()  # the unconditional branch reads the learned vector, not zeros
    assert not torch.allclose(plain, edited())
    networks.encoder.uncond_vector.copy_(before)
