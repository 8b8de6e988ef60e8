"""The loop: diffusers' own where everything is edited, the published variants' blends, and what each mask covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from retouch.diffusion.noise import Noise
from retouch.editors.blended_latent.params import Params
from retouch.editors.blended_latent.sampler import (
    Condition,
    Edited,
    clip_distance,
    edit,
    latent_mask,
    path_of,
    shrinking,
    steps_per_mask,
)
from retouch.errors import ConfigError
from retouch.models.clip import load_clip
from retouch.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from torch import Tensor

from tests.helpers import tiny_pipelines
from tests.helpers.tiny_clip import write_own_layout

pytestmark = pytest.mark.slow

F64 = npt.NDArray[np.float64]
SD, XL = "sd_text_to_image", "sdxl_text_to_image"
PROMPTS = ("a cat", "two red apples on a table")
SIZE, LATENT = 64, 32


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StableDiffusion]:
    root = tmp_path_factory.mktemp("folders")
    return {
        kind: load_stable_diffusion(f"{tiny_pipelines.save(kind, root / kind)}/model_index.json") for kind in (SD, XL)
    }


@pytest.fixture(scope="module")
def networks(loaded: dict[str, StableDiffusion]) -> StableDiffusion:
    return loaded[SD]


def pictures(seed: int = 0) -> Tensor:
    """[2,3,64,64] in [-1, 1]."""
    images, _, _, _ = tiny_pipelines.inputs(2, SIZE, seed)
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1


def holes() -> Tensor:
    """[2,1,64,64], edges that are no multiple of the latents' pixels."""
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[0, :, 9:41, 7:36] = 1
    mask[1, :, 20:61, 31:50] = 1
    return mask


def condition(networks: StableDiffusion, scale: float = 2.0) -> Condition:
    texts = [networks.text(prompt) for prompt in PROMPTS]
    texts = texts if scale == 1 else [networks.negative("")] * 2 + texts
    context = torch.stack([text.context for text in texts])
    if not networks.is_xl:
        return Condition(context)
    pooled = torch.stack([text.pooled for text in texts if text.pooled is not None])
    sizes = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).repeat(len(texts), 1)
    return Condition(context, {"text_embeds": pooled, "time_ids": sizes})


@torch.no_grad()
def edited(
    networks: StableDiffusion, mask: Tensor | None = None, **values: Any
) -> tuple[Edited, list[tuple[Tensor, int]]]:
    """Edit two pictures; return all that the UNet saw, too."""
    params = Params(**{"steps": 8, "guidance_scale": 2.0, **values}).resolved()
    seen: list[tuple[Tensor, int]] = []
    given = condition(networks, params.guidance_scale)
    draws = Noise((1, 2))
    hole = holes() if mask is None else mask
    found = edit(networks, pictures(), hole, given, params, draws, lambda x, t: seen.append((x.clone(), t)))
    return found, seen


@pytest.mark.parametrize(
    ("kind", "prediction", "scale"),
    [(SD, "epsilon", 3.0), (SD, "epsilon", 1.0), (SD, "v_prediction", 3.0), (XL, "epsilon", 3.0)],
)
def test_with_everything_to_edit_it_is_diffusers_own_ddim(
    loaded: dict[str, StableDiffusion], kind: str, prediction: Any, scale: float
) -> None:
    pipe = tiny_pipelines.build(kind)
    pipe.scheduler.register_to_config(prediction_type=prediction)
    noise = Noise((1, 2)).normal("x", (4, LATENT, LATENT))
    theirs = pipe(
        prompt=list(PROMPTS),
        latents=noise,
        num_inference_steps=8,
        guidance_scale=scale,
        height=SIZE,
        width=SIZE,
        output_type="latent",
    ).images
    networks = replace(loaded[kind], prediction=prediction)
    ours, _ = edited(networks, torch.ones(2, 1, SIZE, SIZE), guidance_scale=scale, start="noise", skip=0.0)
    # Sums of the schedule are float64 here and float32 there.
    torch.testing.assert_close(ours.latent, theirs, rtol=1e-3, atol=1e-3)


# -- the published variants' first blend, number by number --


def scaled_linear() -> F64:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def noised(clean: F64, t: int, noise: F64) -> F64:
    level = scaled_linear()[t]
    return level**0.5 * clean + (1 - level) ** 0.5 * noise


def nearest(mask: F64) -> F64:
    return np.stack([[one[0, 1::2, 1::2]] for one in mask])  # the middle of 2 x 2 pixels is the last of them


def drawn(stream: str, times: int = 1) -> list[F64]:
    noise = Noise((1, 2))
    return [noise.normal(stream, (4, LATENT, LATENT)).double().numpy() for _ in range(times)]


def unguided_step(networks: StableDiffusion, x: F64, t: int, t_next: int, scale: float) -> F64:
    """DDIM without noise, by the network's own prediction at x."""
    given = condition(networks)
    double = torch.from_numpy(np.concatenate([x, x])).float()
    with torch.no_grad():
        out = networks.unet(double, torch.full((4,), t), given.context, return_dict=False)[0].double().numpy()
    eps = out[:2] + scale * (out[2:] - out[:2])
    level, level_next = scaled_linear()[t], scaled_linear()[t_next]
    x0 = (x - (1 - level) ** 0.5 * eps) / level**0.5
    return level_next**0.5 * x0 + (1 - level_next) ** 0.5 * eps


def source_latent(networks: StableDiffusion, noise: F64 | None = None) -> F64:
    with torch.no_grad():
        posterior = networks.vae.encode(pictures()).latent_dist
    mean, std = posterior.mean.double().numpy(), posterior.std.double().numpy()
    return networks.vae.config.scaling_factor * (mean if noise is None else mean + std * noise)


def test_the_papers_first_blend_is_before_the_first_pass(networks: StableDiffusion) -> None:
    _, seen = edited(networks, preset="paper", guidance_scale=5.0)
    clean, mask = source_latent(networks, drawn("posterior")[0]), nearest(holes().double().numpy())
    start = noised(clean, 876, drawn("x")[0])  # 8 steps of 125, one up: 876 ... 1
    expected = start * mask + noised(clean, 876, drawn("blend")[0]) * (1 - mask)
    assert [t for _, t in seen] == [876, 751, 626, 501, 376, 251, 126, 1, 0]
    np.testing.assert_allclose(seen[0][0].numpy(), expected, atol=1e-5)
    second = unguided_step(networks, expected, 876, 751, 5.0)
    blend = drawn("blend", 2)[1]  # another noise
    np.testing.assert_allclose(seen[1][0].numpy(), second * mask + noised(clean, 751, blend) * (1 - mask), atol=1e-4)


@pytest.mark.parametrize(("preset", "scale"), [("repo_sd2", 7.5), ("repo_sdxl", 5.0)])
def test_the_authors_later_scripts_skip_a_quarter_and_blend_after_a_step_at_the_level_before_it(
    networks: StableDiffusion, preset: str, scale: float
) -> None:
    _, seen = edited(networks, preset=preset, guidance_scale=scale)
    clean, mask = source_latent(networks), nearest(holes().double().numpy())
    first = drawn("x")[0] if preset == "repo_sd2" else noised(clean, 626, drawn("x")[0])
    assert [t for _, t in seen] == [626, 501, 376, 251, 126, 1, 0]
    np.testing.assert_allclose(seen[0][0].numpy(), first, atol=1e-5)
    stepped = unguided_step(networks, first, 626, 501, scale)
    blend, _, _, _, _, last = drawn("blend", 6)
    expected = stepped * mask + noised(clean, 626, blend) * (1 - mask)
    np.testing.assert_allclose(seen[1][0].numpy(), expected, atol=1e-4)
    outside = np.broadcast_to(mask == 0, clean.shape)  # of the sample: noise of the last t, not the clean latent
    np.testing.assert_allclose(seen[-1][0].numpy()[outside], noised(clean, 1, last)[outside], atol=1e-5)


def test_by_default_a_step_is_blended_at_the_level_it_arrived_at_and_ends_on_the_clean_source(
    networks: StableDiffusion,
) -> None:
    found, seen = edited(networks)
    clean, mask = source_latent(networks), nearest(holes().double().numpy())
    outside = np.broadcast_to(mask == 0, clean.shape)
    blends = drawn("blend", 7)
    for (x, t), blend in zip(seen[1:-1], blends, strict=True):
        np.testing.assert_allclose(x.numpy()[outside], noised(clean, t, blend)[outside], atol=1e-5)
    np.testing.assert_allclose(found.latent.numpy()[outside], clean[outside], atol=1e-6)


def test_without_fresh_noise_every_blend_has_the_starts(networks: StableDiffusion) -> None:
    _, seen = edited(networks, fresh_noise=False)
    clean, mask = source_latent(networks), nearest(holes().double().numpy())
    outside = np.broadcast_to(mask == 0, clean.shape)
    for x, t in seen[:-1]:
        np.testing.assert_allclose(x.numpy()[outside], noised(clean, t, drawn("x")[0])[outside], atol=1e-5)


# -- masks --


def test_nearest_is_what_image_libraries_do() -> None:
    mask = np.random.default_rng(0).random((48, 48)) < 0.5
    for size in (6, 12, 24):
        theirs = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
        ours = latent_mask(torch.from_numpy(mask)[None, None].float(), size, "nearest")
        np.testing.assert_array_equal(ours[0, 0].numpy() > 0, theirs)


def test_cover_keeps_every_block_that_has_a_pixel_to_edit() -> None:
    line = torch.zeros(1, 1, 64, 64)
    line[..., 16, :] = 1
    assert not latent_mask(line, 8, "nearest").any()
    covered = latent_mask(line, 8, "cover")[0, 0]
    assert covered[2].all()
    assert covered.sum() == 8


def test_masks_shrink_by_a_pixel_per_side_down_to_the_rows_own() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 7:9, 7:9] = 1
    masks = shrinking(mask, 3)
    assert [int(one.sum()) for one in masks] == [8 * 8, 6 * 6, 4 * 4, 2 * 2]
    assert torch.equal(masks[-1], mask)
    assert masks[0][..., 4:12, 4:12].all()


@pytest.mark.parametrize(
    ("steps", "shrink", "ranges"),
    [
        (50, 0, [50]),
        (50, 2, [17, 17, 16]),
        (38, 3, [10, 10, 10, 8]),
        (7, 2, [3, 3, 1]),
        (4, 9, [1, 1, 1, 1]),  # fewer steps than masks: the smallest are not used
    ],
)
def test_each_mask_is_used_in_its_share_of_the_steps(steps: int, shrink: int, ranges: list[int]) -> None:
    share = steps_per_mask(steps, shrink + 1)
    used = [number // share for number in range(steps)]
    assert [used.count(place) for place in range(len(ranges))] == ranges


def test_early_steps_change_the_ring_around_a_mask_and_the_last_ones_do_not(networks: StableDiffusion) -> None:
    small = torch.zeros(2, 1, SIZE, SIZE)
    small[..., 30:34, 30:34] = 1
    _, seen = edited(networks, small, shrink=3, blend="before", fresh_noise=False)  # 8 steps, 3 for each mask
    clean = source_latent(networks)
    masks = shrinking(latent_mask(small, LATENT, "nearest"), 3)
    for number, (x, t) in enumerate(seen[:-1]):
        source = noised(clean, t, drawn("x")[0])
        changed = (np.abs(x.numpy() - source).max(axis=1, keepdims=True) > 1e-4)[0, 0]
        edited_here = masks[number // 3][0, 0].numpy() > 0
        assert not changed[~edited_here].any()
        assert number == 0 or changed[edited_here].mean() > 0.9


# -- other parts --


def test_pixel_blending_starts_the_last_steps_from_an_image_with_the_sources_pixels(networks: StableDiffusion) -> None:
    calls: list[Tensor] = []

    def encode(image: Tensor) -> None:
        calls.append(image)

    hook = networks.vae.encoder.register_forward_hook(lambda _module, args, _out: encode(args[0]))
    try:
        plain, _ = edited(networks)
        once = len(calls)
        found, _ = edited(networks, pixel_blending=0.25)
    finally:
        hook.remove()
    pasted = calls[once + 1 :]
    assert len(pasted) == 2  # of 8 steps
    outside = holes().expand(-1, 3, -1, -1) == 0
    for image in pasted:
        torch.testing.assert_close(image[outside], pictures()[outside], rtol=0, atol=0)
        assert (image - pictures())[~outside].abs().mean() > 0.01
    assert not torch.equal(found.image, plain.image)


def test_the_image_is_the_decoded_sample(networks: StableDiffusion) -> None:
    found, seen = edited(networks)
    assert torch.equal(seen[-1][0], found.latent)
    with torch.no_grad():
        theirs = networks.vae.decode(found.latent / networks.vae.config.scaling_factor).sample
    assert torch.equal(found.image, theirs)


@pytest.mark.parametrize(
    ("steps", "skip", "taken"), [(2, 0.0, 2), (1, 0.99, 1), (4, 0.999, 1), (50, 0.25, 38), (8, 0.25, 6)]
)
def test_a_skip_leaves_out_whole_steps_and_never_all(
    networks: StableDiffusion, steps: int, skip: float, taken: int
) -> None:
    path = path_of(networks, Params(steps=steps, skip=skip).resolved())
    assert path == networks.timesteps(steps)[-taken - 1 :]


def test_more_steps_than_the_schedule_has_are_refused(networks: StableDiffusion) -> None:
    short = replace(networks, betas=networks.betas[:100])
    with pytest.raises(ConfigError, match="steps is 200; the network's schedule has 100"):
        path_of(short, Params(steps=200).resolved())


def test_the_ranking_sees_the_region_on_black_alone(tmp_path: Path) -> None:
    clip = load_clip(write_own_layout(tmp_path)[0])
    target = clip.encode_text(["red", "cat"])
    images, mask = pictures(), holes()
    found = clip_distance(clip, images, mask, target)
    assert torch.equal(found, clip_distance(clip, torch.where(mask > 0, images, 0.7), mask, target))
    assert ((found > 0) & (found < 2)).all()
    with torch.no_grad():
        black = clip.encode_image(
            torch.nn.functional.interpolate((images / 2 + 0.5) * mask, (32, 32), mode="bilinear", antialias=True)
        )
    torch.testing.assert_close(found, 1 - torch.cosine_similarity(black, target))
