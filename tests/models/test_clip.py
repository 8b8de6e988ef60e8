from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from retouch.errors import EditError, WeightsError
from retouch.models.clip import Clip, fold_batch_norms, load_clip
from torch import Tensor, nn

from tests.helpers.tiny_clip import MEAN, STD, openai_config, write_openai_layout, write_own_layout

TEXTS = ["a red cat", "cat"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, nn.Module]:
    path, model = write_own_layout(tmp_path_factory.mktemp("own"))
    return load_clip(path), model


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def assert_same_model(clip: Clip, model: nn.Module) -> None:
    """Weights bit for bit, so loading rounds nothing; embeddings as near as kernels give them for equal weights."""
    weights = clip.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    tokens = clip.tokenizer(TEXTS)
    torch.testing.assert_close(clip.encode_text(TEXTS), model.encode_text(tokens))
    torch.testing.assert_close(clip.encode_image(images(), normalise=False), model.encode_image(images()))


@torch.no_grad()
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_our_own_layout_gives_the_embeddings_of_the_model_that_was_saved(tmp_path: Path, tower: str) -> None:
    path, model = write_own_layout(tmp_path, tower)
    clip = load_clip(path)
    assert_same_model(clip, model)
    assert (clip.image_size, clip.context_length, clip.mean, clip.std) == (32, 12, tuple(MEAN), tuple(STD))


@torch.no_grad()
@pytest.mark.parametrize("archive", [False, True])
def test_openais_layout_gives_the_embeddings_of_the_model_that_was_saved(tmp_path: Path, archive: bool) -> None:
    path, model = write_openai_layout(tmp_path, archive)
    clip = load_clip(path)
    assert_same_model(clip, model)
    assert (clip.image_size, clip.context_length) == (32, 77)
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip.tokenizer(["a"])[0, :3].tolist() == [49406, 320, 49407]  # OpenAI's start, "a</w>", end


@torch.no_grad()
def test_a_file_is_read_under_an_open_clip_name(tmp_path: Path) -> None:
    (tmp_path / "retouch-tiny.json").write_text(json.dumps(openai_config()))
    open_clip.add_model_config(tmp_path / "retouch-tiny.json")
    model = open_clip.CLIP(**openai_config()).eval().requires_grad_(requires_grad=False)
    path = tmp_path / "epoch_1.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    assert_same_model(load_clip(f"open_clip:retouch-tiny@{path}"), model)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("open_clip:ViT-none/openai", "open_clip has no 'ViT-none/openai'"),
        ("open_clip:ViT-B-16", "MODEL/TAG"),
        ("open_clip:ViT-none@x.pt", "no plain CLIP named 'ViT-none'"),
        ("open_clip:ViT-B-16-SigLIP@x.pt", "no plain CLIP named 'ViT-B-16-SigLIP'"),
        ("open_clip:ViT-B-16@x.pt", "no such file"),
        ("x.pt", "no such file"),
    ],
)
def test_a_source_that_names_nothing_is_one_clear_line(source: str, words: str) -> None:
    with pytest.raises(WeightsError) as error:
        load_clip(source)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_hold_no_clip_are_one_clear_line(tmp_path: Path) -> None:
    other, broken = tmp_path / "other.pt", tmp_path / "archive.pt"
    torch.save({"weight": torch.zeros(3)}, other)
    whole = Path(write_openai_layout(tmp_path, archive=True)[0]).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    card = Path(write_own_layout(tmp_path)[0]).with_suffix(".json")
    card.write_text('{"model_cfg": {}}')
    for path, words in ((other, "is no OpenAI CLIP"), (broken, "truncated"), (card, "describes no CLIP")):
        with pytest.raises(WeightsError, match=words) as error:
            load_clip(str(path if path != card else card.with_suffix(".safetensors")))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@torch.no_grad()
def test_images_are_brought_to_the_mean_and_deviation_of_the_training_images(own: tuple[Clip, nn.Module]) -> None:
    clip, _ = own
    x = images()
    by_hand = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    assert torch.allclose(clip.encode_image(x), clip.encode_image(by_hand, normalise=False), atol=1e-6)


def test_gradients_reach_the_image_and_no_weight(own: tuple[Clip, nn.Module]) -> None:
    clip, _ = own
    x = images().requires_grad_()
    clip.encode_image(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min(dim=0).values.max() > 0
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())
    assert not clip.model.training


def test_images_of_another_size_are_an_error(own: tuple[Clip, nn.Module]) -> None:
    with pytest.raises(ValueError, match="32 px"):
        own[0].encode_image(images(size=16))


def test_tokens_are_counted_with_both_ends(own: tuple[Clip, nn.Module]) -> None:
    clip, _ = own
    assert [clip.token_count(text) for text in ("", "cat", "red cat", "dog")] == [2, 3, 4, 5]


def test_a_text_too_long_is_an_error_unless_it_may_be_cut(own: tuple[Clip, nn.Module]) -> None:
    clip, _ = own
    fits, long = "cat " * 10, "cat " * 11
    assert clip.token_count(fits) == clip.context_length
    with pytest.raises(EditError, match="prompt of 13 tokens where CLIP reads 12"):
        clip.encode_text(["cat", long])
    assert torch.equal(clip.encode_text([long], truncate=True), clip.encode_text([fits]))


def output_and_gradient(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = network(x)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    return out.detach(), grad


def test_clips_resnet_is_the_same_function_without_its_batch_norms() -> None:
    torch.manual_seed(0)
    network = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=8, image_size=64, width=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if it had been trained
            for values, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                assert values is not None
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.eval().requires_grad_(requires_grad=False)
    x = torch.rand(2, 3, 64, 64)
    wanted = output_and_gradient(network, x)
    fold_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())
    for found, expected in zip(output_and_gradient(network, x), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_norm_that_follows_no_convolution_stays() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    fold_batch_norms(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
