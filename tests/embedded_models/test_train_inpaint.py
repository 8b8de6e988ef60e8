"""The text-to-latent trainers run, save folders that diffusers loads, and go on; the weights show that they learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from embedded_models.captioned import captioned_pool
from embedded_models.fitting import Fit
from embedded_models.text_to_latent import CONDITIONS, LATENTS, TextToLatent, without_mask
from embedded_models.train_inpaint import (
    OUTSIDE,
    Examples,
    InpaintTraining,
    inpaint_batches,
    prepared,
    scene_batches,
    train_inpaint,
    train_text_to_image,
    v_loss,
)
from retouch.models.embedded.files import SHIPPED
from torch import Tensor


def _options(steps: int) -> InpaintTraining:
    plain = InpaintTraining()

    def short(fit: Fit) -> Fit:
        return replace(fit, steps=steps, batch=4, warmup=1)

    return replace(plain, inpaint=short(plain.inpaint), text_to_image=short(plain.text_to_image), examples=24)


@pytest.fixture
def family(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "shapes"
    folder.mkdir(parents=True)
    for name in ("exemplar_vae.json", "exemplar_vae.safetensors"):
        (folder / name).symlink_to(SHIPPED / name)
    return folder


def _weights(folder: Path, kind: type) -> dict[str, Tensor]:
    pipeline = kind.from_pretrained(folder, local_files_only=True)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    parts = {"unet": pipeline.unet, "text": pipeline.text_encoder}
    return {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}


def test_both_folders_are_trained_saved_resumed_and_loaded(family: Path, tmp_path: Path) -> None:
    train_inpaint(family, tmp_path, "cpu", _options(2))
    first = _weights(family.with_name("inpaint"), StableDiffusionInpaintPipeline)
    train_inpaint(family, tmp_path, "cpu", _options(4))
    assert torch.load(tmp_path / "inpaint.ckpt", weights_only=True)["step"] == 4
    again = _weights(family.with_name("inpaint"), StableDiffusionInpaintPipeline)
    changed = {name.split(".")[0] for name, value in first.items() if not torch.equal(value, again[name])}
    assert changed == {"unet", "text"}
    train_text_to_image(family, tmp_path, "cpu", _options(1))
    base = _weights(family.with_name("text_to_image"), StableDiffusionPipeline)
    assert base["unet.conv_in.weight"].shape[1] == LATENTS
    key = "unet.conv_out.weight"
    torch.testing.assert_close(base[key], again[key], atol=5e-3, rtol=0)  # it starts where the first one ended
    assert not list(family.parent.glob("*.tmp"))


def test_latents_are_computed_once(family: Path, tmp_path: Path) -> None:
    first, _ = prepared(family, tmp_path, "cpu", _options(1))
    again, _ = prepared(family, tmp_path, "cpu", _options(1))
    assert torch.equal(first.masked, again.masked)  # they are samples, and would differ if drawn again
    other, _ = prepared(family, tmp_path, "cpu", replace(_options(1), examples=25))
    assert len(other.masked) == 25


def _examples(count: int = 40) -> Examples:
    pool = captioned_pool(count, 0)
    latents = torch.randn(count, LATENTS, 8, 8)
    return Examples(pool, latents, latents + 1, torch.full((LATENTS, 8, 8), 7.0))


def test_a_batch_of_edits_has_masks_as_diffusers_shrinks_them_and_some_that_cover_all() -> None:
    examples = _examples()
    latents, ids, conditions = inpaint_batches(examples)(np.random.default_rng(0), 400)
    assert (latents.shape, ids.shape, conditions.shape) == ((400, 4, 8, 8), (400, 32), (400, CONDITIONS, 8, 8))
    whole = conditions[:, :1].flatten(1).all(dim=1)
    assert 0.03 < whole.float().mean() < 0.15
    assert (conditions[whole, 1:] == 7).all()
    assert torch.equal(conditions[~whole, 1:], latents[~whole] + 1)
    shrunk = torch.nn.functional.interpolate(torch.from_numpy(examples.pool.mask[:, None]).float(), (8, 8))
    assert torch.equal(examples.mask, shrunk)
    empty = (ids[:, 1:] == ids[:, -1:]).all(dim=1)
    assert 0.05 < empty.float().mean() < 0.16


def test_a_batch_of_scenes_shows_no_strangers_rim() -> None:
    examples = _examples(8)
    examples = replace(examples, pool=replace(examples.pool, whole=np.arange(8) % 2 == 0))
    latents, ids = scene_batches(examples)(np.random.default_rng(0), 200)
    drawn = {int(row) for row in torch.cdist(latents.flatten(1), examples.latents.flatten(1)).argmin(dim=1)}
    assert drawn == {0, 2, 4, 6}
    assert len(ids) == 200


def test_four_channels_see_what_nine_see_of_a_wholly_masked_scene() -> None:
    torch.manual_seed(0)
    nine = TextToLatent(LATENTS + CONDITIONS).eval()
    grey = torch.randn(LATENTS, 1, 1).expand(LATENTS, 8, 8)
    four = without_mask(nine, grey).eval()
    x = torch.randn(2, LATENTS, 8, 8)
    conditions = torch.cat([torch.ones(1, 8, 8), grey]).expand(2, -1, -1, -1)
    with torch.no_grad():
        expected = nine.unet.conv_in(torch.cat([x, conditions], dim=1))
        found = four.unet.conv_in(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert four.unet.config.in_channels == LATENTS
    assert nine.unet.config.in_channels == LATENTS + CONDITIONS


def test_the_loss_of_a_perfect_network_is_nothing_and_what_surrounds_the_mask_weighs_less() -> None:
    latents, ids = torch.randn(8, LATENTS, 8, 8), torch.zeros(8, 32, dtype=torch.long)
    alphas = torch.full((10,), 0.36)

    def perfect(x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        eps = (x[:, :LATENTS] - 0.6 * latents) / 0.8
        return 0.6 * eps - 0.8 * latents

    assert v_loss(perfect, alphas, latents, ids, None) < 1e-9
    conditions = torch.zeros(8, CONDITIONS, 8, 8)
    conditions[:, :, :, :4] = 1.0  # half is masked
    shifted = {side: torch.zeros(8, 1, 8, 8) for side in ("inside", "outside")}
    shifted["inside"][..., :4], shifted["outside"][..., 4:] = 1.0, 1.0
    found = {
        side: float(v_loss(lambda x, t, ids, error=error: perfect(x, t, ids) + error, alphas, latents, ids, conditions))
        for side, error in shifted.items()
    }
    assert found["inside"] == pytest.approx(0.5, abs=1e-4)
    assert found["outside"] == pytest.approx(0.5 * OUTSIDE, abs=1e-4)
