"""Blended Diffusion on tensors: what an edit depends on, and what it must not."""

import dataclasses

import pytest
import torch
from retouch.diffusion.noise import Noise
from retouch.editors.blended_diffusion.params import Params
from retouch.editors.blended_diffusion.sampler import background_loss, clip_distance, edit
from retouch.errors import ConfigError

from tests.helpers.tiny_editors import tiny_networks

SIZE = 16
SHORT = Params(timesteps=6, skip_timesteps=1, aug_num=3, clip_guidance_lambda=20.0, range_lambda=1.0).resolved()


def scene(count=3):
    generator = torch.Generator().manual_seed(5)
    source = torch.rand((count, 3, SIZE, SIZE), generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, SIZE, SIZE)
    mask[:, :, 4:12, 3:10] = 1
    return source, mask, torch.randn((count, 8), generator=generator)


def run(params=SHORT, networks=None, seeds=(1, 2, 3), scene_=None, **more):
    source, mask, target = scene_ or scene(len(seeds))
    return edit(networks or tiny_networks(), source, mask, target, params, Noise(seeds), **more)


class Counting(Noise):
    """Counts the draws of each stream."""

    def __init__(self, seeds):
        super().__init__(seeds)
        self.drawn = {}

    def normal(self, stream, shape):
        self.drawn[stream] = self.drawn.get(stream, 0) + 1
        return super().normal(stream, shape)

    def integers(self, stream, high):
        self.drawn[stream] = self.drawn.get(stream, 0) + 1
        return super().integers(stream, high)


def test_outside_the_mask_the_result_is_the_source():
    source, mask, _ = scene()
    edited = run()
    assert torch.equal(edited.image * (1 - mask), source * (1 - mask))
    assert not torch.equal(edited.x0 * (1 - mask), source * (1 - mask))


def test_without_the_paste_the_result_is_x0():
    edited = run(dataclasses.replace(SHORT, enforce_background=False))
    assert torch.equal(edited.image, edited.x0)


def test_blending_keeps_the_background_closer_than_the_baseline_does():
    source, mask, _ = scene()
    apart = []
    for params in (SHORT, dataclasses.replace(SHORT, local_clip_guided=True)):
        apart.append(((run(params).x0 - source) * (1 - mask)).square().mean())
    assert apart[0] < apart[1]


def test_the_baseline_draws_no_background_and_pastes_nothing():
    source, mask, target = scene()
    draws = Counting([1, 2, 3])
    edited = edit(tiny_networks(), source, mask, target, dataclasses.replace(SHORT, local_clip_guided=True), draws)
    assert set(draws.drawn) == {"start", "step"}
    assert torch.equal(edited.image, edited.x0)


def test_steps_without_noise_draw_none():
    source, mask, target = scene()
    draws = Counting([1, 2, 3])
    edit(tiny_networks(), source, mask, target, dataclasses.replace(SHORT, sampler="ddim"), draws)
    assert draws.drawn == {"start": 1, "background": 5}


def test_an_edit_without_guidance_never_asks_clip():
    networks = tiny_networks()
    run(networks=networks, guided=torch.tensor([False] * 3))
    assert networks.clip.seen == []


def test_an_unguided_entry_among_guided_ones_is_as_if_nothing_guided():
    free = run(guided=torch.tensor([False] * 3))
    mixed = run(guided=torch.tensor([True, False, True]))
    everything = run()
    torch.testing.assert_close(mixed.x0[1], free.x0[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed.x0[0], everything.x0[0], rtol=0, atol=1e-5)
    assert (mixed.x0[0] - free.x0[0]).abs().max() > 1e-2


def test_one_view_is_the_plain_view():
    networks = tiny_networks()
    run(dataclasses.replace(SHORT, aug_num=1), networks)
    assert {len(seen) for seen in networks.clip.seen} == {3}
    networks = tiny_networks()
    run(dataclasses.replace(SHORT, aug_num=4), networks)
    assert {len(seen) for seen in networks.clip.seen} == {12}


@pytest.mark.parametrize(
    "changes", [{}, {"sampler": "ddim"}, {"gradient": "x0"}, {"background_preservation_loss": True}]
)
def test_an_edit_does_not_depend_on_its_batch_mates(changes):
    params = dataclasses.replace(SHORT, lpips_lambda=0.0, l2_lambda=50.0, **changes)
    source, mask, target = scene()
    together = run(params, scene_=(source, mask, target))
    alone = run(params, seeds=(2,), scene_=(source[1:2], mask[1:2], target[1:2]))
    torch.testing.assert_close(together.x0[1], alone.x0[0], rtol=0, atol=1e-4)


def test_guidance_lowers_the_distance_to_the_target():
    _, mask, target = scene()
    networks = tiny_networks()
    params = dataclasses.replace(SHORT, timesteps=20, skip_timesteps=4, clip_guidance_lambda=60.0)

    def distance(edited):
        return clip_distance(networks.clip, edited.image, mask, target, params).mean()

    assert distance(run(params, networks)) < distance(run(params, networks, guided=torch.tensor([False] * 3))) - 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"distance": "cosine"},
        {"guide_on": "x0"},
        {"gradient": "x0"},
        {"aug_num": 2},
        {"augmentation": "perspective"},
        {"translate": "vertical"},
        {"clip_guidance_lambda": 0.0},
        {"range_lambda": 0.0},
        {"background_preservation_loss": True},
        {"sampler": "ddim"},
        {"sampler": "ddim", "eta": 1.0},
        {"variance": "large"},
        {"blend": False},
        {"timesteps": "ddim5", "skip_timesteps": 0},
    ],
)
def test_every_knob_of_the_walk_changes_the_edit(changes):
    params = dataclasses.replace(SHORT, lpips_lambda=0.0)
    assert not torch.equal(run(params).image, run(dataclasses.replace(params, **changes)).image)


def test_the_backgrounds_target_is_masked_or_as_published():
    params = dataclasses.replace(SHORT, background_preservation_loss=True, lpips_lambda=0.0, l2_lambda=50.0)
    source, mask, _ = scene()
    of_the_source = [
        background_loss(tiny_networks(), source, mask, each)(source)
        for each in (params, dataclasses.replace(params, background_target="unmasked"))
    ]
    assert torch.equal(of_the_source[0], torch.zeros(3))
    assert (of_the_source[1] > 0).all()


def test_lpips_counts_with_its_own_weight_an_entry():
    def lpips(x, y):
        return (x - y).abs().mean(dim=(1, 2, 3))

    source, mask, _ = scene()
    params = dataclasses.replace(SHORT, l2_lambda=0.0, lpips_lambda=10.0)
    got = background_loss(tiny_networks(lpips=lpips), source, mask, params)(source * 0)
    torch.testing.assert_close(got, 10 * (source * (1 - mask)).abs().mean(dim=(1, 2, 3)))


def test_classes_are_redrawn_at_every_step_for_each_entry_or_left_out():
    networks = tiny_networks(classes=1000)
    run(networks=networks)
    drawn = torch.stack(networks.unet.seen_classes)
    assert tuple(drawn.shape) == (5, 3)
    assert len(drawn.unique()) > 10
    again = tiny_networks(classes=1000)
    source, mask, target = scene()
    run(networks=again, seeds=(2,), scene_=(source[1:2], mask[1:2], target[1:2]))
    assert torch.equal(torch.stack(again.unet.seen_classes)[:, 0], drawn[:, 1])
    without = tiny_networks(classes=1000)
    run(dataclasses.replace(SHORT, class_mode="zero"), without)
    assert without.unet.seen_classes == []


def test_learned_variances_are_used():
    fixed, learned = run(), run(networks=tiny_networks(learn_sigma=True))
    assert not torch.equal(fixed.image, learned.image)
    assert learned.image.isfinite().all()


def test_skipping_all_steps_is_a_config_error():
    with pytest.raises(ConfigError, match="skip_timesteps is 6 but there are 6 timesteps"):
        run(dataclasses.replace(SHORT, skip_timesteps=6))


def test_ranking_sees_the_region_on_grey_or_as_published_on_black():
    source, mask, target = scene()
    networks = tiny_networks()
    for ranking, outside in (("guidance", 0.5), ("repo", 0.0)):
        params = dataclasses.replace(SHORT, ranking=ranking)
        other = source + (1 - mask) * 0.3
        ours = clip_distance(networks.clip, source, mask, target, params)
        assert torch.equal(ours, clip_distance(networks.clip, other, mask, target, params))
        corner = networks.clip.seen[-1][:, :, 0, 0]
        seen = corner * 0.25 + 0.5 if ranking == "guidance" else corner
        assert seen.tolist() == [[outside] * 3] * 3
