from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from retouch.errors import WeightsError
from retouch.models.inception import FID_CLASSES, IMAGE_SIZE, Inception, load_inception
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torchvision.models.inception import Inception3


def random_inception(classes: int) -> Inception3:
    """Either published architecture; statistics that keep a signal alive through all layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Inception3(num_classes=classes, aux_logits=classes == 1000, init_weights=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 1.5, 3)
    return model.eval().requires_grad_(requires_grad=False)


def write(folder: Path, model: Inception3) -> str:
    path = folder / f"inception-{len(model.fc.bias)}.pth"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def originals() -> dict[int, Inception3]:
    return {classes: random_inception(classes) for classes in (1000, FID_CLASSES)}


@pytest.fixture(scope="module")
def loaded(originals: dict[int, Inception3], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Inception]:
    folder = tmp_path_factory.mktemp("inception")
    return {classes: load_inception(write(folder, model)) for classes, model in originals.items()}


def picture(height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> Tensor:
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(1))


def test_the_number_of_classes_tells_the_two_published_files_apart(loaded: dict[int, Inception]) -> None:
    assert (loaded[1000].kind, loaded[FID_CLASSES].kind) == ("torchvision", "FID")


def test_features_of_torchvisions_file_are_what_its_classifier_sees(
    originals: dict[int, Inception3], loaded: dict[int, Inception]
) -> None:
    seen: list[Tensor] = []
    original = originals[1000].float()
    handle = original.avgpool.register_forward_hook(lambda _m, _i, out: seen.append(out.flatten(1)))
    original(picture() * 2 - 1)
    handle.remove()
    features = loaded[1000].features(picture())
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, seen[0], rtol=5e-2, atol=5e-2 * float(seen[0].abs().max()))  # file of float16
    assert features.std() > 0


def test_the_fid_networks_average_pools_leave_the_padding_out_and_its_last_block_takes_the_maximum(
    loaded: dict[int, Inception],
) -> None:
    model = loaded[FID_CLASSES].model
    for name, size, last in (("Mixed_5b", (192, 35), 32), ("Mixed_6c", (768, 17), 192), ("Mixed_7b", (1280, 8), 192)):
        block = getattr(model, name)
        x = torch.rand((1, size[0], size[1], size[1]), generator=torch.Generator().manual_seed(0))
        ones = torch.ones_like(x[:, :1])
        mean = F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(ones, 3, 1, 1)  # what of each window lies in the image
        torch.testing.assert_close(block(x)[:, -last:], block.branch_pool(mean), rtol=1e-4, atol=1e-5)
    x = torch.rand((1, 2048, 8, 8), generator=torch.Generator().manual_seed(0))
    windows = F.unfold(F.pad(x, (1, 1, 1, 1), value=-1), 3).view(2048, 9, 8, 8).amax(1)[None]
    torch.testing.assert_close(model.Mixed_7c(x)[:, -192:], model.Mixed_7c.branch_pool(windows), rtol=1e-4, atol=1e-5)


def test_the_other_branches_are_those_of_torchvision(
    originals: dict[int, Inception3], loaded: dict[int, Inception]
) -> None:
    x = torch.rand((1, 192, 35, 35), generator=torch.Generator().manual_seed(0))
    plain, ours = originals[FID_CLASSES].Mixed_5b(x), loaded[FID_CLASSES].model.Mixed_5b(x)
    torch.testing.assert_close(ours[:, :-32], plain[:, :-32], rtol=2e-2, atol=2e-2 * float(plain.max()))
    assert not torch.allclose(ours[:, -32:, 0, 0], plain[:, -32:, 0, 0], rtol=5e-2)


@pytest.mark.parametrize("size", [(640, 400), (120, 200)])
def test_images_are_resized_as_pillow_does_it_in_floats(
    loaded: dict[int, Inception], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    seen: list[Tensor] = []
    inception = Inception(torch.nn.Identity(), "FID")
    monkeypatch.setattr(inception.model, "forward", lambda x: seen.append(x) or x)
    x = picture(*size)
    inception.features(x)
    planes = [
        Image.fromarray(plane.numpy()).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC) for plane in x[0]
    ]
    expected = np.stack([np.asarray(plane) for plane in planes]).clip(0, 1) * 2 - 1
    np.testing.assert_allclose(seen[0][0].numpy(), expected, atol=1e-4)


def test_another_network_is_refused_in_one_line(tmp_path: Path, originals: dict[int, Inception3]) -> None:
    state = originals[1000].state_dict()
    state.pop("Mixed_7c.branch_pool.conv.weight")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="is not torchvision's InceptionV3: 1 missing"):
        load_inception(str(tmp_path / "cut.pth"))


def test_a_file_without_counters_of_training_steps_loads(tmp_path: Path, originals: dict[int, Inception3]) -> None:
    state = originals[FID_CLASSES].state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    assert load_inception(str(tmp_path / "old.pth")).kind == "FID"
