"""The editors that are measured, and what they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retouch.cli.bench.subjects import ADM_CONFIGS, DDPM_CONFIGS, EDITORS, LATENT_CONFIGS, subject
from retouch.errors import ConfigError
from retouch.models.adm import build_adm
from retouch.models.ddpm import build_ddpm
from retouch.models.paint_by_example import build_networks


def parameters(module: torch.nn.Module) -> float:
    return sum(weight.numel() for weight in module.parameters()) / 1e6


def test_full_size_is_that_of_the_published_networks() -> None:
    with torch.device("meta"):
        latent = build_networks(LATENT_CONFIGS["full"])
        assert parameters(build_adm(ADM_CONFIGS["full"])) == pytest.approx(552.8, abs=0.1)
        assert parameters(build_ddpm(DDPM_CONFIGS["full"])) == pytest.approx(113.7, abs=0.1)
    assert parameters(latent.unet) == pytest.approx(859.5, abs=0.5)
    assert parameters(latent.vae) == pytest.approx(83.7, abs=0.1)


def test_reduced_networks_differ_from_the_published_ones_in_width_alone() -> None:
    with torch.device("meta"):
        for build, configs in ((build_adm, ADM_CONFIGS), (build_ddpm, DDPM_CONFIGS)):
            full, reduced = (build(configs[size]).state_dict() for size in ("full", "reduced"))  # type: ignore[operator]
            assert list(full) == list(reduced)
        full, reduced = (build_networks(LATENT_CONFIGS[size]) for size in ("full", "reduced"))
        assert list(full.unet.state_dict()) == list(reduced.unet.state_dict())
        assert list(full.vae.state_dict()) == list(reduced.vae.state_dict())
        assert list(full.encoder.state_dict()) == list(reduced.encoder.state_dict())


@pytest.mark.parametrize("name", EDITORS)
def test_every_entry_of_every_batch_is_another_row(name: str) -> None:
    one = subject(name, "embedded", steps=2)
    batches = [one.batch(3), one.batch(3, first=3)]
    assert len({image.tobytes() for batch in batches for image in batch.image}) == 6
    assert batches[0].image.shape == (3, one.image_size, one.image_size, 3)
    assert batches[0].mask.any(axis=(1, 2)).all()


def test_what_is_drawn_is_enlarged_to_what_a_network_sees() -> None:
    one = subject("diffusionclip", "reduced")
    batch = one.batch(1)
    assert batch.image.shape == (1, 256, 256, 3)
    assert np.array_equal(batch.image[:, ::8, ::8], subject("diffusionclip", "embedded").batch(1).image)


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no editor named nobody"):
        subject("nobody", "embedded")
    with pytest.raises(ConfigError, match="at size huge"):
        subject("diffusionclip", "huge")
    with pytest.raises(ConfigError, match="n_gem"):
        subject("diffusionclip", "embedded", params={"n_gem": 3})
