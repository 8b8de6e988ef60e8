from __future__ import annotations

from pathlib import Path

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.arcface import ArcFace, IrSe50, face, identity_loss, load_arcface
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from tests.helpers.golden_set import weightless

pytestmark = pytest.mark.slow

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of model_ir_se50.pth, written down from its description and not from our modules."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": () if part == "num_batches_tracked" else (width,) for part in BN})

    shapes["input_layer.0.weight"] = (64, 3, 3, 3)
    norm("input_layer.1", 64)
    shapes["input_layer.2.weight"] = (64,)
    width, index = 64, 0
    for out, blocks in ((64, 3), (128, 4), (256, 14), (512, 3)):
        for _ in range(blocks):
            block = f"body.{index}"
            if width != out:
                shapes[f"{block}.shortcut_layer.0.weight"] = (out, width, 1, 1)
                norm(f"{block}.shortcut_layer.1", out)
            norm(f"{block}.res_layer.0", width)
            shapes[f"{block}.res_layer.1.weight"] = (out, width, 3, 3)
            shapes[f"{block}.res_layer.2.weight"] = (out,)
            shapes[f"{block}.res_layer.3.weight"] = (out, out, 3, 3)
            norm(f"{block}.res_layer.4", out)
            shapes[f"{block}.res_layer.5.fc1.weight"] = (out // 16, out, 1, 1)
            shapes[f"{block}.res_layer.5.fc2.weight"] = (out, out // 16, 1, 1)
            width, index = out, index + 1
    norm("output_layer.0", 512)
    shapes |= {"output_layer.3.weight": (512, 512 * 49), "output_layer.3.bias": (512,)}
    norm("output_layer.4", 512)
    return shapes


def by_formula(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """IR-SE50 written out on the file's tensors: every stride, shortcut and gate where InsightFace has it."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (state[f"{name}.{part}"] for part in BN[:4])
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.prelu(
        norm(F.conv2d(x, state["input_layer.0.weight"], padding=1), "input_layer.1"), state["input_layer.2.weight"]
    )
    for index in range(24):
        block, stride = f"body.{index}", 2 if index in (0, 3, 7, 21) else 1
        shortcut = x[:, :, ::stride, ::stride]
        if f"{block}.shortcut_layer.0.weight" in state:
            shortcut = F.conv2d(x, state[f"{block}.shortcut_layer.0.weight"], stride=stride)
            shortcut = norm(shortcut, f"{block}.shortcut_layer.1")
        y = F.conv2d(norm(x, f"{block}.res_layer.0"), state[f"{block}.res_layer.1.weight"], padding=1)
        y = F.prelu(y, state[f"{block}.res_layer.2.weight"])
        y = norm(F.conv2d(y, state[f"{block}.res_layer.3.weight"], stride=stride, padding=1), f"{block}.res_layer.4")
        gate = y.mean((2, 3), keepdim=True)
        gate = F.conv2d(F.conv2d(gate, state[f"{block}.res_layer.5.fc1.weight"]).relu(),
                        state[f"{block}.res_layer.5.fc2.weight"])  # fmt: skip
        x = shortcut + y * gate.sigmoid()
    flat = norm(x, "output_layer.0").flatten(1)
    return norm(F.linear(flat, state["output_layer.3.weight"], state["output_layer.3.bias"]), "output_layer.4")


@pytest.fixture(scope="module")
def arcface() -> ArcFace:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = IrSe50()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(std=0.1)
                nn.init.uniform_(module.weight, 0.5, 2)
    return ArcFace(model.eval().requires_grad_(requires_grad=False))


def images(count: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_network_is_the_published_one_by_name_and_size() -> None:
    with torch.device("meta"):
        state = IrSe50().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published_layout()
    assert len(state) == 397
    assert sum(value.numel() for value in state.values()) == pytest.approx(43.82e6, abs=0.005e6)


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_of_the_published_layout_loads_tensor_by_tensor(tmp_path: Path, nested: bool) -> None:
    state = {
        name: (torch.tensor(7) if name.endswith("tracked") else torch.tensor(index / 397)).expand(shape)
        for index, (name, shape) in enumerate(published_layout().items())
    }
    path = tmp_path / "model_ir_se50.pth"
    torch.save({"state_dict": state} if nested else state, path)
    loaded = load_arcface(str(path)).model
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_that_is_not_it_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "model_ir_se50.pth"
    layout = published_layout()
    shorter = {name: shape for name, shape in layout.items() if not name.startswith("body.23.")}
    other = layout | {"output_layer.3.weight": (512, 512 * 16)}
    for shapes, words in ((shorter, "15 missing .*body.23.res_layer.0.weight"), (other, "1 of another shape")):
        torch.save(weightless(shapes), path)
        with pytest.raises(WeightsError, match=f"is not InsightFace's IR-SE50.*{words}") as error:
            load_arcface(str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["short.pth", "short.safetensors"])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    state = {"input_layer.0.weight": torch.zeros(64, 3, 3, 3)}
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match="truncated") as error:
        load_arcface(str(path))
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_the_face_is_cut_where_the_published_loss_cuts_it_and_averaged(arcface: ArcFace) -> None:
    x = images(1, 256)
    assert torch.equal(face(x), x[:, :, 35:223, 32:220])
    by_hand = arcface.model(F.adaptive_avg_pool2d(x[:, :, 35:223, 32:220], 112))
    assert torch.allclose(arcface.embed(x), by_hand / by_hand.norm(), atol=1e-6)


@torch.no_grad()
def test_the_network_is_its_formula_on_the_files_tensors(arcface: ArcFace) -> None:
    x = images(1, 112)
    expected = by_formula(x, dict(arcface.model.state_dict()))
    assert torch.allclose(arcface.model(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert expected.std() > 1e-3


@pytest.mark.parametrize(("size", "rows", "columns"), [(512, (70, 446), (64, 440)), (128, (18, 112), (16, 110))])
def test_another_size_is_cut_at_the_same_shares(size: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    x = images(1, size)
    assert torch.equal(face(x), x[:, :, slice(*rows), slice(*columns)])


@torch.no_grad()
def test_embeddings_are_unit_vectors_and_differ_between_images(arcface: ArcFace) -> None:
    found = arcface.embed(images(2))
    assert found.shape == (2, 512)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-6)
    assert (found[0] - found[1]).norm() > 1e-3


@torch.no_grad()
def test_an_embedding_does_not_depend_on_its_batch_mates(arcface: ArcFace) -> None:
    x = images(2)
    others = torch.stack([images(1, seed=1)[0], x[1]])
    assert torch.equal(arcface.embed(x)[1], arcface.embed(others)[1])
    assert torch.allclose(arcface.embed(x)[1], arcface.embed(x[1:])[0], atol=1e-5)


def test_the_identity_loss_is_one_less_the_likeness_and_moves_only_the_edited_image(arcface: ArcFace) -> None:
    edited, source = images(1).requires_grad_(), images(1, seed=1).requires_grad_()
    loss = identity_loss(arcface, edited, source)
    loss.sum().backward()
    with torch.no_grad():
        likeness = (arcface.embed(edited) * arcface.embed(source)).sum()
        assert loss.shape == (1,)
        assert loss.item() == pytest.approx(1 - likeness.item(), abs=1e-6)
        assert identity_loss(arcface, source, source).item() == pytest.approx(0, abs=1e-6)
    assert source.grad is None
    assert edited.grad is not None
    assert face(edited.grad).abs().sum() > 0
    assert edited.grad[..., :9, :].abs().sum() == 0  # above the face
