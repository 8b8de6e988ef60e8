"""DiffusionCLIP on tensors against whole runs of the original code."""

import re

import pytest
import torch
from retouch.diffusion.mixing import by_ratio, hybrid
from retouch.diffusion.sampling import denoiser
from retouch.diffusion.schedule import named
from retouch.editors.diffusionclip.params import Params
from retouch.editors.diffusionclip.sampler import generated, generated_from_noise, inverted, optimised, purified
from retouch.editors.runtime import from_uint8
from retouch.models.unet import ddpm_network

from tests.helpers.golden_set import assert_within, ddpm_config, golden, weights_of
from tests.helpers.tiny_editors import GivenDraws, tiny_networks

TENSORS, ENTRY = golden("diffusionclip_edit.safetensors")
CONFIG, TOLERANCE = ENTRY["config"], ENTRY["tolerance"]["all"]
SCHEDULE = named("linear")
X0, LATENT, NOISE = TENSORS["out.x0"], TENSORS["out.x_lat"], TENSORS["in.noise"]
CASES = sorted(name.removeprefix("out.").removesuffix(".steps") for name in TENSORS if name.endswith(".steps"))


def params(**changes):
    return Params(t_0=CONFIG["t_0"], n_inv=CONFIG["n_inv_step"], n_gen=CONFIG["n_test_step"], **changes)


@pytest.fixture(scope="module")
def networks():
    """The original network and the fine-tuned ones, which differ from it in some tensors."""
    base, entry = golden(CONFIG["network_file"])
    numbers = sorted({name.split(".")[0] for name in TENSORS if name.startswith("net")})
    changes = [{}, *(weights_of(TENSORS, f"{number}.") for number in numbers)]
    made = []
    for changed in changes:
        network = ddpm_network({**weights_of(base), **changed}, ddpm_config(entry["config"]), CONFIG["network_file"])
        network.module.eval().requires_grad_(False)
        made.append(denoiser(network.module, SCHEDULE, learn_sigma=network.learn_sigma))
    return made


class Frames:
    """What was recorded: x after each step and the t that it started from."""

    def __init__(self):
        self.x, self.t = [], []

    def __call__(self, x, t):
        self.x.append(x)
        self.t.append(t)


def steps_in(name):
    """The recorded steps that a tensor holds, from its description ("after the inversion steps 0 and 3")."""
    meaning = ENTRY["tensors"][name]["meaning"]
    return [int(number) for number in re.findall(r"\d+", re.search(r"steps:? ([\d, and]+)", meaning)[1])]


def check_steps(name, frames):
    got = torch.stack([frames.x[k] for k in steps_in(name)])
    assert_within(got, TENSORS[name], TOLERANCE, name)


@torch.no_grad()
def test_an_image_gets_the_latent_that_it_got_in_the_original_code(networks):
    assert_within(from_uint8(TENSORS["in.img_u8"][None].numpy(), "cpu"), X0, TOLERANCE, "x0")
    frames = Frames()
    latent = inverted(networks[0], SCHEDULE, X0, params(), record=frames)
    assert frames.t == TENSORS["out.inversion_t"][:, 0].tolist()
    check_steps("out.inversion", frames)
    assert_within(latent, LATENT, TOLERANCE, "x_lat")


def target(case, networks):
    original, *tuned = networks
    if case == "recon":
        return original
    if case.startswith("hybrid"):
        found = re.findall(r"(\d+):\[([^]]*)\]", CONFIG[f"{case}_config"])
        weights_at = {int(threshold): [float(weight) for weight in weights.split(",")] for threshold, weights in found}
        return hybrid(tuned[: int(case.removeprefix("hybrid"))], weights_at)
    ratio = float(case.removeprefix("edit_ratio")) if case.startswith("edit_ratio") else 1.0
    return by_ratio(original, tuned[0], ratio)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_edit_equals_the_original_codes(case, networks):
    frames, denoise = Frames(), target(case, networks)
    if case == "edit_random_start":
        draws = GivenDraws(start=[NOISE[0]])
        end = generated_from_noise(denoise, SCHEDULE, X0, params(start="noise"), draws, record=frames)
    else:
        how = params(
            sampler="ddpm" if case == "edit_ddpm" else "ddim",
            eta=float(case.removeprefix("edit_eta")) if case.startswith("edit_eta") else 0.0,
        )
        latent = inverted(networks[0], SCHEDULE, X0, how)
        end = generated(denoise, SCHEDULE, latent, how, GivenDraws(step=NOISE), record=frames)
    assert frames.t == TENSORS[f"out.{case}.t"][:, 0].tolist()
    check_steps(f"out.{case}.steps", frames)
    assert torch.equal(end, frames.x[-1])


@torch.no_grad()
def test_an_image_of_another_domain_is_brought_home_as_in_the_original_code(networks):
    steps = TENSORS["out.unseen2unseen.t"]
    ends = TENSORS["out.unseen2unseen.phase_ends"]
    how = params(purify=int(re.search(r"n_iter=(\d+)", ENTRY["tensors"]["out.unseen2unseen.phase_ends"]["meaning"])[1]))
    frames = Frames()
    clean = purified(networks[0], SCHEDULE, X0, how, GivenDraws(purify=NOISE), record=frames)
    latent = inverted(networks[0], SCHEDULE, clean, how, record=frames)
    end = generated(networks[1], SCHEDULE, latent, how, GivenDraws(), record=frames)
    assert frames.t == steps[:, 0].tolist()
    for name, got, ref in zip(
        ("first round", "purified", "latent", "result"),
        (frames.x[how.purify_steps - 1], clean, latent, end),
        ends,
        strict=True,
    ):
        assert_within(got, ref, TOLERANCE, name)


def optimise(latent, x0, texts, **changes):
    tiny = tiny_networks()
    source = denoiser(tiny.unet, tiny.schedule, learn_sigma=False)
    how = Params(optimise=3, n_train=3, **changes)
    clip = tiny.clip
    return optimised(source, tiny.schedule, latent, x0, clip.encode_image, clip.image_size, texts, how), source, tiny


LATENTS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_an_optimised_latent_is_nearer_to_its_text_and_no_graph_hangs_on_it():
    from retouch.diffusion.clip_losses import clip_view, global_loss

    latent, source, tiny = optimise(LATENTS, LATENTS.clamp(-1, 1), TEXTS, latent_lr=0.1, l1_weight=0.0)
    how = Params(n_gen=3)

    def distance(x):
        image = generated(source, tiny.schedule, x, how, GivenDraws())
        return global_loss(tiny.clip.encode_image(clip_view(image, tiny.clip.image_size)), TEXTS)

    assert (distance(latent) < distance(LATENTS)).all()
    assert not latent.requires_grad
    assert not LATENTS.requires_grad


def test_optimising_nothing_but_nearness_moves_towards_the_image():
    image = torch.zeros_like(LATENTS)
    latent, source, tiny = optimise(LATENTS, image, TEXTS, latent_lr=0.05, clip_weight=0.0)
    with torch.no_grad():
        before, after = (
            generated(source, tiny.schedule, x, Params(n_gen=3), GivenDraws()).abs().mean() for x in (LATENTS, latent)
        )
    assert after < before


def test_an_optimised_latent_depends_on_its_own_entry_alone():
    x0 = LATENTS.clamp(-1, 1)
    together, *_ = optimise(LATENTS, x0, TEXTS)
    turned, *_ = optimise(LATENTS[[2, 0, 1]], x0[[2, 0, 1]], TEXTS[[2, 0, 1]])
    assert torch.equal(turned, together[[2, 0, 1]])
    alone, *_ = optimise(LATENTS[[1, 1, 1]], x0[[1, 1, 1]], TEXTS[[1, 1, 1]])
    assert torch.equal(alone[0], together[1])
