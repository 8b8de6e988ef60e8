"""Latents outlive their engine: the next one inverts nothing, and what is damaged is computed again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retouch.errors import StorageError
from retouch.execution import plan
from retouch.execution.engine import Engine
from retouch.execution.latent_cache import StoredLatents
from retouch.execution.specs import EngineSpec
from retouch.jobs import config, identity
from retouch.manifests.samples import Sample

from tests.helpers.families import SIZE, write_family, write_unet

LATENT = np.random.default_rng(0).standard_normal((3, 4, 5), dtype=np.float32)
DECIDES = {"version": "1", "batch_size": 4}


def test_a_latent_comes_back_bit_for_bit(tmp_path: Path) -> None:
    kept = StoredLatents(str(tmp_path / "latents"), DECIDES)
    assert kept.get("a") is None
    kept.put("a", LATENT.transpose(1, 0, 2).copy().transpose(1, 0, 2))
    found = StoredLatents(str(tmp_path / "latents"), dict(reversed(DECIDES.items()))).get("a")
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, LATENT)


def test_latents_of_another_identity_are_not_found(tmp_path: Path) -> None:
    StoredLatents(str(tmp_path), DECIDES).put("a", LATENT)
    for other in ({"version": "2"}, {"batch_size": 8}):
        assert StoredLatents(str(tmp_path), {**DECIDES, **other}).get("a") is None


@pytest.mark.parametrize("damage", [b"", b"half", "cut", "flipped", "foreign"])
def test_a_damaged_latent_is_a_miss_and_can_be_written_over(tmp_path: Path, damage: bytes | str) -> None:
    kept = StoredLatents(str(tmp_path), DECIDES)
    kept.put("a", LATENT)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    place = len(whole) - LATENT.nbytes // 2
    damaged = {
        "cut": whole[:-8],
        "flipped": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        "foreign": whole.replace(b"latent", b"patent"),
    }
    file.write_bytes(damage if isinstance(damage, bytes) else damaged[damage])
    assert kept.get("a") is None
    kept.put("a", LATENT)
    assert file.read_bytes() == whole


def test_an_unreachable_storage_is_logged_once_and_fails_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def refuses(uri: str, *_: Any) -> bytes:
        tries.append(uri)
        raise StorageError(f"{uri}: access denied")

    for door in ("read_bytes", "write_bytes"):
        with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
            patch.setattr(f"retouch.storage.{door}", refuses)
            kept = StoredLatents(str(tmp_path), DECIDES)
            for _ in range(3):
                assert kept.get("a") is None
                kept.put("a", LATENT)
    assert len(tries) == 2
    assert [record.message.partition(" for")[0] for record in caplog.records] == ["latent cache disabled"] * 2


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_family(tmp_path_factory.mktemp("family"))


def engine_spec(family: dict[str, str], address: Path | None, **changes: Any) -> EngineSpec:
    params = {"t_0": 301, "n_inv": 6, "n_gen": 3}
    spec = EngineSpec(
        editor="retouch.editors.diffusionclip.editor:DiffusionClip",
        params=params,
        weights=family,
        batch_size=2,
        latents=None if address is None else str(address),
    )
    return replace(spec, **changes)


def samples(checkpoints: tuple[str, ...] = ("tuned", "other")) -> list[Sample]:
    images = [np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for i in range(3)]
    mask = np.ones((SIZE, SIZE), dtype=np.bool_)
    return [
        Sample(f"{name}{i}", "", checkpoint=name, source=image, mask=mask)
        for name in checkpoints
        for i, image in enumerate(images)
    ]


def edit_rows(spec: EngineSpec, rows: list[Sample]) -> tuple[int, list[bytes]]:
    """Passes of the source network, and the images."""
    engine, passes = Engine(spec, "cpu"), []
    editor: Any = engine.editor
    editor.networks.source.module.register_forward_hook(lambda *_: passes.append(1))
    answers = engine.edit(rows)
    assert [answer.failure for answer in answers] == [None] * len(rows)
    return len(passes), [answer.kept[0].image.tobytes() for answer in answers]


def test_a_second_engine_inverts_nothing_and_returns_the_same(family: dict[str, str], tmp_path: Path) -> None:
    passes, images = edit_rows(engine_spec(family, tmp_path), samples())
    assert passes == 2 * 5  # two batches of the three images, one inversion each, whatever the targets
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert edit_rows(engine_spec(family, tmp_path), samples()) == (0, images)
    assert edit_rows(engine_spec(family, tmp_path), samples(("third",)))[0] == 0
    assert edit_rows(engine_spec(family, None), samples()) == (passes, images)


def test_a_damaged_file_is_inverted_again_alone(family: dict[str, str], tmp_path: Path) -> None:
    _, images = edit_rows(engine_spec(family, tmp_path), samples())
    first, *_ = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:100])
    assert edit_rows(engine_spec(family, tmp_path), samples()) == (5, images)
    assert edit_rows(engine_spec(family, tmp_path), samples()) == (0, images)


def test_another_source_network_or_batch_size_finds_nothing(family: dict[str, str], tmp_path: Path) -> None:
    edit_rows(engine_spec(family, tmp_path / "latents"), samples())
    other = {**family, "unet": write_unet(tmp_path / "unet.safetensors", tuned=9)}
    assert edit_rows(engine_spec(other, tmp_path / "latents"), samples())[0] > 0
    assert edit_rows(engine_spec(family, tmp_path / "latents", batch_size=4), samples())[0] > 0


def test_where_latents_are_kept_decides_no_fingerprint_and_may_change_between_runs() -> None:
    editor = {"name": "diffusionclip", "weights": "w"}
    data = {"name": "n", "manifest": "m.csv", "output": "o", "editor": editor}
    here, there = (config.parse_job({**data, "latents": latents}, "job") for latents in ("s3://b/l", None))
    assert plan.engine_spec(here).latents == "s3://b/l"
    assert plan.engine_spec(there).latents is None
    assert identity.pixel_identity(here, "1", {}) == identity.pixel_identity(there, "1", {})
    assert "latents" not in identity.IDENTITY_FIELDS
