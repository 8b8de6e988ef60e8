"""Blended Diffusion on tensors against the original code's numbers, from one gradient to whole trajectories."""

import dataclasses
import re

import pytest
import torch
from retouch.diffusion.guidance import by_gradient
from retouch.diffusion.sampling import denoiser, downward, predict_x0, q_sample
from retouch.diffusion.schedule import named, respace
from retouch.editors.blended_diffusion.params import Params
from retouch.editors.blended_diffusion.sampler import blended, clip_distance, edit, guidance_loss, pasted, schedule_of

from tests.helpers.golden_set import assert_within, golden
from tests.helpers.tiny_editors import GivenDraws, golden_networks

PIECES, PIECES_ENTRY = golden("blended_pieces.safetensors")
CONDFN, CONDFN_ENTRY = golden("blended_condfn.safetensors")
TRAJECTORY, TRAJECTORY_ENTRY = golden("blended_trajectory.safetensors")
INDICES = CONDFN["in.indices"].tolist()


def golden_params(config, **changes):
    """The published code's settings. Its square error is a mean over the batch too: here that goes into lambda."""
    params = Params(
        preset="repo",
        timesteps=config["timestep_respacing"],
        skip_timesteps=config["skip_timesteps"],
        aug_num=config["aug_num"],
        clip_guidance_lambda=config["clip_guidance_lambda"],
        range_lambda=config["range_lambda"],
        lpips_lambda=config["lpips_sim_lambda"],
        l2_lambda=config["l2_sim_lambda"] / config["batch_size"],
        background_preservation_loss=config["background_preservation_loss"],
    )
    return dataclasses.replace(params, **changes).resolved()


def as_batch(x, config):
    return x.expand(config["batch_size"], -1, -1, -1)


def test_the_background_and_the_blend_equal_the_original_codes():
    config, tolerance = PIECES_ENTRY["config"], PIECES_ENTRY["tolerance"]["all"]
    schedule = respace(named("linear"), config["timestep_respacing"])
    source, noise = PIECES["in.init_image"], PIECES["in.bg_noise"]
    levels = [int(name.removeprefix("out.blend_t")) for name in PIECES if name.startswith("out.blend_t")]
    assert levels
    for t in levels:
        got = blended(schedule, PIECES["in.xt"], source, PIECES["in.mask"], t, noise)
        assert_within(got, PIECES[f"out.blend_t{t}"], tolerance, f"blend_t{t}")
        assert_within(q_sample(schedule, source, t, noise), PIECES[f"out.background_t{t}"], tolerance, f"t{t}")


def test_the_final_paste_equals_the_original_codes():
    got = pasted(PIECES["in.x0"], PIECES["in.init_image"], PIECES["in.mask"])
    assert_within(got[0], PIECES["out.final_paste"], PIECES_ENTRY["tolerance"]["all"], "final_paste")


def guided_prediction(index, params):
    config = CONDFN_ENTRY["config"]
    networks = golden_networks(CONDFN, config)
    schedule = schedule_of(networks, params)
    source, mask = as_batch(CONDFN["out.init_image"], config), as_batch(CONDFN["out.mask"], config)
    loss = guidance_loss(networks, schedule, source, mask, CONDFN["in.text_embed"], params, GivenDraws())
    denoise = by_gradient(denoiser(networks.unet, schedule, learn_sigma=networks.learn_sigma), loss, schedule)
    return denoise(CONDFN[f"in.x_t{index}"], index), networks, schedule


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("grad_total", ()),
        ("grad_clip", ("range_lambda", "l2_lambda")),
        ("grad_range", ("clip_guidance_lambda", "l2_lambda")),
        ("grad_mse_background", ("clip_guidance_lambda", "range_lambda")),
    ],
)
def test_one_pass_gives_the_gradients_that_the_original_code_took_two_for(index, name, off):
    params = golden_params(CONDFN_ENTRY["config"], **dict.fromkeys(off, 0.0))
    prediction, _, schedule = guided_prediction(index, params)
    tolerance = CONDFN_ENTRY["tolerance"]["all"]
    assert_within(prediction.grad, CONDFN[f"out.idx{index}.{name}"], tolerance, name)
    x0 = predict_x0(schedule, CONDFN[f"in.x_t{index}"], index, prediction.eps)
    assert_within(x0, CONDFN[f"out.idx{index}.pred_xstart"], tolerance, "pred_xstart")


@pytest.mark.parametrize("index", INDICES)
def test_clip_sees_what_it_saw_in_the_original_code(index):
    _, networks, _ = guided_prediction(index, golden_params(CONDFN_ENTRY["config"]))
    tolerance = CONDFN_ENTRY["tolerance"]["all"]
    assert_within(networks.clip.seen[0], CONDFN[f"out.idx{index}.clip_input_normalized"], tolerance, "CLIP's input")


@pytest.mark.parametrize("index", INDICES)
def test_the_blended_sample_equals_the_original_codes(index):
    config = CONDFN_ENTRY["config"]
    schedule = respace(named(config["noise_schedule"], config["diffusion_steps"]), config["timestep_respacing"])
    sample, noise = CONDFN[f"in.fg_sample_t{index}"], CONDFN[f"in.bg_noise_t{index}"]
    got = blended(schedule, sample, CONDFN["out.init_image"], CONDFN["out.mask"], index, noise)
    assert_within(got, CONDFN[f"out.idx{index}.blended_sample"], CONDFN_ENTRY["tolerance"]["all"], "blended_sample")


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_whole_edit_equals_the_original_codes(sampler):
    config, tolerance = TRAJECTORY_ENTRY["config"], TRAJECTORY_ENTRY["tolerance"]
    params = golden_params(config, sampler=sampler)
    networks = golden_networks(TRAJECTORY, config)
    source, mask = as_batch(TRAJECTORY["out.init_image"], config), as_batch(TRAJECTORY["out.mask"], config)
    step_noise = {"step": TRAJECTORY["in.step_noise"]} if sampler == "ddpm" else {}
    draws = GivenDraws(start=[TRAJECTORY["in.start_noise"]], background=TRAJECTORY["in.bg_noise"], **step_noise)
    frames = []
    edited = edit(
        networks,
        source,
        mask,
        TRAJECTORY["in.text_embed"],
        params,
        draws,
        record=lambda x, t: frames.append((t, x)),
    )
    assert [t for t, _ in frames] == TRAJECTORY["out.indices"].tolist()
    kept = torch.stack([frames[k][1] for k in recorded_steps()])
    for name, got in (("sample", kept), ("pred_xstart_last", edited.x0)):
        ref = TRAJECTORY[f"out.{sampler}.{name}"]
        assert_within(got, ref, tolerance["sample, pred_xstart_last"], name)
    image = ((edited.image + 1) / 2).clamp(0, 1)
    assert_within(image, TRAJECTORY[f"out.{sampler}.final_image_01"], tolerance["final_image_01"], "image")
    distance = clip_distance(networks.clip, edited.image, mask, TRAJECTORY["in.text_embed"], params)
    ref = TRAJECTORY[f"out.{sampler}.final_distance"]
    assert_within(distance, ref, tolerance["final_distance"].partition(";")[0], "distance")


def recorded_steps():
    """The steps whose sample the set holds, from its description ("after the steps 0, 2 and 5")."""
    meaning = TRAJECTORY_ENTRY["tensors"]["out.ddpm.sample"]["meaning"]
    steps = [int(number) for number in re.findall(r"\d+", meaning.partition("after the steps")[2].partition("(")[0])]
    assert len(steps) == len(TRAJECTORY["out.ddpm.sample"])
    return steps


def test_the_network_sees_the_original_timesteps():
    params = golden_params(TRAJECTORY_ENTRY["config"])
    schedule = schedule_of(golden_networks(TRAJECTORY, TRAJECTORY_ENTRY["config"]), params)
    path = list(downward(schedule, params.skip_timesteps))
    assert path == [*TRAJECTORY["out.indices"].tolist(), -1]
    assert schedule.timestep_map[path[:-1]].tolist() == TRAJECTORY["out.network_t"].tolist()
