"""What follows the sampling draws the outside towards the source, and leaves the shared decoder as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from retouch.editors.blended_latent.background import fitted, poisson
from retouch.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from torch import Tensor

from tests.helpers import tiny_pipelines

SIZE = 64


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_pipelines.save("sd_text_to_image", tmp_path_factory.mktemp("folder"))
    return load_stable_diffusion(str(Path(folder) / "model_index.json"))


def images(seed: int, size: int = SIZE) -> Tensor:
    """[1,3,S,S] in [-1, 1], smooth."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(-1, 1)


def hole(size: int = SIZE) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., 20:44, 10:40] = 1
    return mask


def fit(networks: StableDiffusion, what: Literal["weights", "latents"], steps: int = 10) -> tuple[Tensor, Tensor]:
    """Return the image before and after."""
    with torch.no_grad():
        latent = networks.encode(images(1))
        edited = networks.decode(latent)
        return edited, fitted(networks, edited, latent, images(0), hole(), what, steps, 100.0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "latents"])
def test_the_outside_comes_nearer_to_the_source(networks: StableDiffusion, what: Literal["weights", "latents"]) -> None:
    before, after = fit(networks, what)
    errors = [float((((image - images(0)) * (1 - hole())) ** 2).mean()) for image in (before, after)]
    assert errors[1] < 0.95 * errors[0]
    assert torch.equal(fit(networks, what)[1], after)  # nothing random, and nothing left over from the first time


@pytest.mark.slow
def test_fitting_leaves_the_shared_decoder_as_it_was(networks: StableDiffusion) -> None:
    weights = {name: value.clone() for name, value in networks.vae.state_dict().items()}
    probe = torch.ones(1, 4, 32, 32)
    with torch.no_grad():
        image = networks.decode(probe)
    for what in ("weights", "latents"):
        fit(networks, what, steps=2)  # type: ignore[arg-type]
    assert all(torch.equal(weights[name], value) for name, value in networks.vae.state_dict().items())
    assert all(not value.requires_grad and value.grad is None for value in networks.vae.parameters())
    with torch.no_grad():
        assert torch.equal(networks.decode(probe), image)


@pytest.mark.slow
def test_a_latent_that_is_fitted_is_a_copy(networks: StableDiffusion) -> None:
    with torch.no_grad():
        latent = networks.encode(images(1))
        before = latent.clone()
        fitted(networks, networks.decode(latent), latent, images(0), hole(), "latents", 2, 100.0)
    assert torch.equal(latent, before)


def test_poisson_removes_an_offset_and_keeps_the_edits_gradients() -> None:
    source, mask = images(0), hole()
    torch.testing.assert_close(poisson(source + 0.3, source, mask), source, rtol=0, atol=1e-6)
    edited = images(1)
    found = poisson(edited, source, mask)
    outside = mask.expand(-1, 3, -1, -1) == 0
    assert torch.equal(found[outside], source[outside])

    def laplacian(x: Tensor) -> Tensor:
        kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])[None, None]
        return torch.nn.functional.conv2d(x.transpose(0, 1), kernel)[:, 0, 19:43, 9:39]  # of the hole

    torch.testing.assert_close(laplacian(found), laplacian(edited), rtol=0, atol=1e-5)


def test_poisson_at_the_images_edge_all_over_and_nowhere() -> None:
    source, edited = images(0), images(1)
    corner = torch.zeros(1, 1, SIZE, SIZE)
    corner[..., :20, :20] = 1
    torch.testing.assert_close(poisson(source - 0.2, source, corner), source, rtol=0, atol=1e-6)
    assert torch.equal(poisson(edited, source, torch.ones_like(corner)), edited)
    assert torch.equal(poisson(edited, source, torch.zeros_like(corner)), source)
