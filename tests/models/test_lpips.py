from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
import torchvision
from retouch.errors import WeightsError
from retouch.models.clip import load_clip
from retouch.models.lpips import clip_features_distance, load_lpips
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.helpers.tiny_clip import write_own_layout

SHIFT, SCALE = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
# Convolution, pooling before it (kernel, stride), and whether its output is tapped.
TAPS = {
    "vgg": [(0, 0, 0), (2, 0, 1), (5, 2, 0), (7, 0, 1), (10, 2, 0), (12, 0, 0), (14, 0, 1),
            (17, 2, 0), (19, 0, 0), (21, 0, 1), (24, 2, 0), (26, 0, 0), (28, 0, 1)],
    "alex": [(0, 0, 1), (3, 3, 1), (6, 3, 1), (8, 0, 1), (10, 0, 1)],
}  # fmt: skip
ALEX_STRIDE_PADDING = {0: (4, 2), 3: (1, 2)}


def trunk(net: str) -> dict[str, Tensor]:
    """torchvision's names and shapes with random weights of a variance that keeps features of one scale."""
    with torch.device("meta"):
        model = torchvision.models.vgg16() if net == "vgg" else torchvision.models.alexnet()
    generator = torch.Generator().manual_seed(0)
    shapes = {k: v.shape for k, v in model.state_dict().items() if k.startswith("features")}
    return {
        name: torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5 if len(shape) == 4
        else torch.randn(shape, generator=generator) * 0.1
        for name, shape in shapes.items()
    }  # fmt: skip


def features(x: Tensor, state: dict[str, Tensor], net: str) -> list[Tensor]:
    x = (x - SHIFT.view(3, 1, 1)) / SCALE.view(3, 1, 1)
    found = []
    for index, pool, tapped in TAPS[net]:
        x = F.max_pool2d(x, pool, 2) if pool else x
        stride, padding = ALEX_STRIDE_PADDING.get(index, (1, 1)) if net == "alex" else (1, 1)
        x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], stride, padding).relu()
        found += [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)] * tapped
    return found


def pair() -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, 2, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return a, b


@torch.no_grad()
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_its_formula_on_the_local_trunk_and_the_shipped_heads(tmp_path: Path, net: str) -> None:
    state = trunk(net)
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "trunk.pth")
    a, b = pair()
    heads_file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    heads = torch.load(heads_file, map_location="cpu", weights_only=True)
    expected = torch.zeros(2)
    for tap, (p, q) in enumerate(zip(features(a, state, net), features(b, state, net), strict=True)):
        expected += (heads[f"lin{tap}.model.1.weight"] * (p - q).square()).sum(1).mean((1, 2))
    distance = load_lpips(str(tmp_path / "trunk.pth"), net)
    assert distance(a, b).shape == (2,)
    assert torch.allclose(distance(a, b), expected, rtol=1e-4)
    assert torch.equal(distance(a, a), torch.zeros(2))


def test_lpips_never_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    save_file(trunk("alex"), tmp_path / "alex.safetensors")
    load_lpips(str(tmp_path / "alex.safetensors"), "alex")


def test_another_trunk_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "alex.safetensors"
    save_file(trunk("alex"), path)
    with pytest.raises(WeightsError, match="no vgg trunk for LPIPS") as error:
        load_lpips(str(path), "vgg")
    assert str(path) in str(error.value)
    wrong = trunk("alex") | {"features.0.weight": torch.zeros(64, 3, 7, 7)}
    save_file(wrong, path)
    with pytest.raises(WeightsError, match="1 of another shape"):
        load_lpips(str(path), "alex")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_stand_in_on_clip_features_is_a_distance_with_gradients(tmp_path: Path, tower: str) -> None:
    distance = clip_features_distance(load_clip(write_own_layout(tmp_path, tower)[0]))
    a, b = pair()
    far, near = distance(a, b), distance(a, a + 0.01 * (b - a))
    assert far.shape == (2,)
    assert (far > near).all()
    assert (near > 0).all()
    assert (far <= 4).all()
    assert torch.equal(distance(a, a), torch.zeros(2))
    assert torch.allclose(distance(b, a), far, rtol=1e-4)
    black = torch.full_like(a, -1).requires_grad_()  # where positions may have no features at all
    distance(black, b).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()
