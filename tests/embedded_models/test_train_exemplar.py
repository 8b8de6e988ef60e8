"""The exemplar set's trainers run, save what the editor loads, and go on; that they learn is what the weights show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded_models.exemplar_pools import pair_pool, reference_pool
from embedded_models.fitting import Fit, fit, learning_rate
from embedded_models.train_exemplar import (
    ExemplarNetworks,
    ExemplarTraining,
    class_tokens,
    eps_loss,
    prepared,
    small_mask,
    train_exemplar,
)
from embedded_models.train_vae import VaeTraining, encode, holed, load_vae, train_vae
from retouch.diffusion.schedule import scaled_linear
from retouch.models.exemplar_encoder import ExemplarEncoder
from retouch.models.paint_by_example import load_networks
from torch import nn

ROLES = ("exemplar_vae", "exemplar_unet", "exemplar_encoder")


def _steps(options: Fit, steps: int) -> Fit:
    return replace(options, steps=steps, batch=4, warmup=1)


def _options(steps: int) -> ExemplarTraining:
    plain = ExemplarTraining()
    return replace(plain, tower=_steps(plain.tower, steps), unet=_steps(plain.unet, steps), pairs=12, references=24)


def test_the_set_trains_saves_resumes_and_loads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    vae = train_vae(out, tmp_path, "cpu", VaeTraining(_steps(VaeTraining().fit, 2), scenes=8))
    assert vae.config["scaling_factor"] > 0
    train_exemplar(out, tmp_path, "cpu", _options(2))
    first = load_networks({role: str(out / f"{role}.safetensors") for role in ROLES})
    train_exemplar(out, tmp_path, "cpu", _options(5))
    assert torch.load(tmp_path / "exemplar.ckpt", weights_only=True)["step"] == 5
    again = load_networks({role: str(out / f"{role}.safetensors") for role in ROLES})
    assert (first.image_size, first.factor, first.reference_size, first.schedule) == (32, 4, 32, "scaled_linear")
    assert first.scaling_factor == pytest.approx(vae.config["scaling_factor"])
    changed = [not torch.equal(a, b) for a, b in zip(first.unet.parameters(), again.unet.parameters(), strict=True)]
    assert any(changed)


def test_a_finished_fit_does_nothing_more(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    options = Fit(steps=3, learning_rate=0.1, batch=4, warmup=1)

    def draw(rng: np.random.Generator, size: int) -> list[torch.Tensor]:
        return [torch.from_numpy(rng.normal(size=(size, 2))).float()]

    def loss(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return net(x).float().square().mean()

    fit(model, draw, loss, options, tmp_path / "state", lambda averaged: None)
    stored = (tmp_path / "state").stat().st_mtime_ns
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model, draw, loss, options, tmp_path / "state", lambda averaged: None)
    assert stored <= (tmp_path / "state").stat().st_mtime_ns
    assert all(torch.equal(a, b) for a, b in zip(trained, model.parameters(), strict=True))


def test_two_threads_give_the_gradient_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def draw(rng: np.random.Generator, size: int) -> list[torch.Tensor]:
        return [torch.from_numpy(rng.normal(size=(size, 8))).float()]

    def loss(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (net(x).float() - 1).square().mean()

    found = []
    for threads in (1, 2):
        model.load_state_dict(state)
        options = Fit(steps=4, learning_rate=0.01, batch=16, warmup=1, threads=threads)
        fit(model, draw, loss, options, tmp_path / f"state{threads}", lambda averaged: None)
        found.append(model.weight.detach().clone())
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=2e-3)  # bf16 rounds each half on its own


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 10), (49, 1.0), (50, 1.0), (75, 0.5), (100, 0.0)])
def test_the_rate_warms_up_stays_and_falls_to_zero(step: int, share: float) -> None:
    options = Fit(steps=100, learning_rate=2e-3, warmup=10, decay_from=0.5)
    assert learning_rate(step, options) == pytest.approx(2e-3 * share)


def test_a_dropped_condition_hides_the_exemplar_from_the_unet() -> None:
    torch.manual_seed(0)
    networks = ExemplarNetworks().eval()
    x, t = torch.randn(2, 9, 8, 8), torch.tensor([500, 500])
    features = torch.randn(2, 2, 128)
    with torch.no_grad():
        shown = [networks(x, t, one, torch.tensor([True, False])) for one in features]
    assert torch.equal(shown[0][0], shown[1][0])
    assert not torch.equal(shown[0][1], shown[1][1])


def test_class_tokens_are_what_the_encoder_itself_would_see() -> None:
    torch.manual_seed(0)
    encoder: ExemplarEncoder = ExemplarNetworks().encoder.eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tokens = class_tokens(encoder, images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1  # mean and deviation are 0.5
    with torch.no_grad():
        torch.testing.assert_close(encoder.context(tokens[:, None]), encoder(pixels), rtol=1e-4, atol=1e-4)


def test_the_loss_reaches_the_unconditional_vector_and_not_the_frozen_tower() -> None:
    torch.manual_seed(0)
    networks = ExemplarNetworks()
    networks.encoder.model.requires_grad_(requires_grad=False)
    alphas = torch.from_numpy(scaled_linear().alphas_cumprod).float()
    keep = torch.ones(32, 1, 32, 32, dtype=torch.bool)
    keep[:, :, 8:24, 8:24] = False
    eps_loss(
        networks, alphas, torch.randn(32, 4, 8, 8), torch.randn(32, 4, 8, 8), keep, torch.randn(32, 128)
    ).backward()
    assert networks.encoder.uncond_vector.grad is not None
    assert networks.encoder.uncond_vector.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in networks.encoder.model.parameters())


def test_a_small_masks_one_is_what_stays() -> None:
    keep = torch.ones(64, 1, 32, 32, dtype=torch.bool)
    keep[:, :, 8:24, 8:24] = False
    small = small_mask(keep, 8)
    assert small.shape == (64, 1, 8, 8)
    assert (small[:, :, 2:6, 2:6] == 0).all()
    assert (small[:, :, 0] == 1).all()


def test_half_of_the_autoencoders_scenes_have_a_grey_hole() -> None:
    images = np.full((8, 32, 32, 3), 255, dtype=np.uint8)
    x = holed(np.random.default_rng(0), images)
    grey = (x == 0).flatten(1).float().mean(dim=1)
    assert (grey > 0).sum() == 4
    assert grey.max() < 0.9


def test_latents_are_computed_again_for_another_autoencoder(tmp_path: Path) -> None:
    options = _steps(VaeTraining().fit, 1)
    pairs, references, encoder = pair_pool(4, 0), reference_pool(24, 0), ExemplarNetworks().encoder.eval()
    found = []
    for seed in (1, 2):
        (tmp_path / "vae.ckpt").unlink(missing_ok=True)
        train_vae(tmp_path, tmp_path, "cpu", VaeTraining(replace(options, seed=seed), scenes=4))
        found.append(prepared(encoder, pairs, references, tmp_path, tmp_path, "cpu"))
    again = prepared(encoder, pairs, references, tmp_path, tmp_path, "cpu")
    assert not torch.equal(found[0].latents, found[1].latents)
    assert torch.equal(found[1].masked, again.masked)  # kept: they are samples, and would differ if drawn again


def test_latents_of_masked_scenes_do_not_see_what_the_mask_hides(tmp_path: Path) -> None:
    train_vae(tmp_path, tmp_path, "cpu", VaeTraining(_steps(VaeTraining().fit, 1), scenes=4))
    vae = load_vae(tmp_path)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    mask = np.zeros((1, 32, 32), dtype=bool)
    mask[:, 8:24, 8:24] = True
    second = np.where(mask[..., None], 255 - first, first)
    assert not torch.equal(encode(vae, first), encode(vae, second))
    assert torch.equal(encode(vae, first, mask), encode(vae, second, mask))
