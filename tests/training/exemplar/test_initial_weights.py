"""What a training starts from: our networks, or Stable Diffusion's with CLIP's, in both of their published forms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from retouch.errors import WeightsError
from retouch.models.ldm_keys import UNET, VAE
from retouch.models.paint_by_example import PaintByExampleConfig, PaintByExampleNetworks, build_networks
from retouch.training.exemplar.initial_weights import load_start, widened, widened_config
from safetensors.torch import save_file

from tests.helpers.tiny_paint_by_example import TINY
from tests.models.test_paint_by_example import NARROW, published_state
from tests.training.exemplar.tiny import write_networks

FOUR = dataclasses.replace(TINY, unet={**TINY.unet, "in_channels": 4})


def own(folder: Path) -> dict[str, str]:
    write_networks(folder)
    return {role: str(folder / f"{role}.safetensors") for role in ("exemplar_vae", "exemplar_unet", "exemplar_encoder")}


def prior(folder: Path, config: PaintByExampleConfig = FOUR) -> tuple[PaintByExampleNetworks, dict[str, str]]:
    """A text-to-image model of four channels as a diffusers folder, and the tower as a whole CLIP has it."""
    torch.manual_seed(7)
    networks = build_networks(config)
    for part, module in (("unet", networks.unet), ("vae", networks.vae)):
        (folder / part).mkdir(parents=True)
        module.save_pretrained(folder / part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "scaled_linear"}')
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    tower = {f"vision_model.{name}": value for name, value in networks.encoder.model.state_dict().items()}
    save_file({**tower, "logit_scale": torch.ones(1)}, folder / "clip.safetensors")
    (folder / "clip.json").write_text(json.dumps(dict(config.vision)))
    return networks, {"model_index": str(folder / "model_index.json"), "vision": str(folder / "clip.safetensors")}


def test_only_what_the_paper_trains_is_free(tmp_path: Path) -> None:
    networks = load_start(own(tmp_path), "weights", 0)
    free = {name for name, value in networks.encoder.named_parameters() if value.requires_grad}
    assert all(value.requires_grad for value in networks.unet.parameters())
    assert not any(value.requires_grad for value in networks.vae.parameters())
    assert {name.split(".")[0] for name in free} == {"mapper", "final_layer_norm", "proj_out", "uncond_vector"}


def test_a_text_to_image_folder_and_a_clip_become_exemplar_networks(tmp_path: Path) -> None:
    theirs, files = prior(tmp_path)
    ours = load_start(files, "weights", 0)
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 1, TINY.context_dim), torch.tensor([10])
    with torch.no_grad():
        before = theirs.unet(x, t, context, return_dict=False)[0]
        after = ours.unet(torch.cat([x, torch.randn(1, 5, 8, 8)], dim=1), t, context, return_dict=False)[0]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    for one, other in ((ours.vae, theirs.vae), (ours.encoder.model, theirs.encoder.model)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert ours.image_size == theirs.image_size
    assert ours.scaling_factor == theirs.scaling_factor


def test_a_text_to_image_checkpoint_becomes_the_same_networks_as_its_folder(tmp_path: Path) -> None:
    """Narrow networks under latent diffusion's names, as ``sd-v1-4.ckpt`` has them, its text encoder among them."""
    config = dataclasses.replace(NARROW, unet={**NARROW.unet, "in_channels": 4})
    theirs, files = prior(tmp_path, config)
    path = tmp_path / "sd.ckpt"
    state = {name: value for name, value in published_state(theirs).items() if name.startswith((UNET, VAE))}
    text = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(3)}
    torch.save({"state_dict": {**state, **text}, "global_step": 1}, path)
    card = {name: dict(getattr(config, name)) for name in ("unet", "vae")}
    path.with_suffix(".json").write_text(json.dumps({**card, "context_dim": config.context_dim}))
    folder, file = (
        load_start({**given, "vision": files["vision"]}, "weights", 0)
        for given in ({"model_index": files["model_index"]}, {"checkpoint": str(path)})
    )
    for role, module in folder.parts().items():
        other = file.parts()[role].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in module.state_dict().items()), role


def test_what_no_weights_bring_is_drawn_from_the_seed(tmp_path: Path) -> None:
    _, files = prior(tmp_path)
    one, same, other = (load_start(files, "weights", seed).encoder.proj_out.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_without_the_prior_the_unet_is_drawn_anew_and_the_frozen_parts_stay(tmp_path: Path) -> None:
    files = own(tmp_path)
    kept, fresh = load_start(files, "weights", 0), load_start(files, "none", 0)
    assert not torch.equal(kept.unet.conv_out.weight, fresh.unet.conv_out.weight)
    for one, other in ((kept.vae, fresh.vae), (kept.encoder.model, fresh.encoder.model)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_tower_alone_says_what_is_missing(tmp_path: Path) -> None:
    _, files = prior(tmp_path)
    with pytest.raises(WeightsError, match="neither checkpoint nor a diffusers folder"):
        load_start({"vision": files["vision"]}, "weights", 0)


def test_a_tower_of_another_architecture_is_refused(tmp_path: Path) -> None:
    _, files = prior(tmp_path)
    (tmp_path / "clip.json").write_text(json.dumps({**TINY.vision, "hidden_size": 64}))
    with pytest.raises(WeightsError, match="is not CLIP's image tower"):
        load_start(files, "weights", 0)


def test_the_first_pass_of_a_widened_unet_is_that_of_the_text_to_image_unet() -> None:
    torch.manual_seed(0)
    config = {**TINY.unet, "in_channels": 4}
    prior = UNet2DConditionModel.from_config(config).eval()
    wide = UNet2DConditionModel.from_config(widened_config(config)).eval()
    wide.load_state_dict(widened(prior.state_dict()))
    x, rest = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8, 8)
    context, t = torch.randn(2, 3, TINY.context_dim), torch.tensor([3, 900])
    with torch.no_grad():
        before = prior(x, t, context, return_dict=False)[0]
        after = wide(torch.cat([x, rest], dim=1), t, context, return_dict=False)[0]
    # Sums over more channels may be taken in another order, though the added ones are zeros.
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert before.abs().max() > 0


def test_a_unet_of_nine_channels_stays_as_it_is() -> None:
    state = {"conv_in.weight": torch.randn(8, 9, 3, 3)}
    assert torch.equal(widened(state)["conv_in.weight"], state["conv_in.weight"])


@pytest.mark.parametrize(
    ("state", "reason"), [({}, "no conv_in"), ({"conv_in.weight": torch.zeros(8, 12, 3, 3)}, "takes 12 channels")]
)
def test_weights_of_another_make_are_refused(state: dict[str, torch.Tensor], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        widened(state)
