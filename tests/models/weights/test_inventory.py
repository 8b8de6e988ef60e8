"""A job's weights are listed without fetching them; damage is found by reading them again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from retouch import storage
from retouch.jobs.config import parse_job
from retouch.models import weights
from retouch.models.weights.inventory import Entry, cached, embedded, entries, fault, of_job

from tests.models.weights.test_weights import COMPONENTS, family


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))


def test_a_remote_file_is_told_with_its_size_before_it_is_fetched_and_with_its_hash_after(moto_s3: str) -> None:
    uri = f"{moto_s3}/net.safetensors"
    storage.write_bytes(uri, b"net")
    storage.write_bytes(f"{moto_s3}/net.json", b"{}")
    before = list(entries({"unet": uri}))
    assert [(e.role, e.state, e.size, e.sha256) for e in before] == [
        ("unet", "remote", 3, None),
        ("unet.json", "remote", 2, None),
    ]
    assert not list(cached())
    weights.resolve({"unet": uri})
    after = list(entries({"unet": uri}))
    assert [(e.state, e.path) for e in after] == [("cached", e.path) for e in before]
    assert after[0].sha256 == hashlib.sha256(b"net").hexdigest()
    assert {e.path for e in after} == set(cached())


def test_every_file_of_a_remote_folder_is_told(moto_s3: str) -> None:
    found = {entry.role: entry for entry in entries(family(f"{moto_s3}/family"))}
    assert found["unet/clip.safetensors"].state == "remote"
    assert {role.partition("/")[2] for role in found} == {
        *("family.json", "unet.safetensors", "clip.safetensors", "clip.json", "merges.txt.gz"),
    }
    for name, data in COMPONENTS.items():
        storage.write_bytes(f"{moto_s3}/published/{name}", data)
    assert {entry.address for entry in entries(f"{moto_s3}/published")} == {
        f"{moto_s3}/published/{name}" for name in COMPONENTS
    }


def test_what_cannot_be_had_is_an_entry_that_says_so(tmp_path: Path, moto_s3: str) -> None:
    spec = {"unet": [str(tmp_path / "none.pt"), f"{moto_s3}/none.pt"], "clip": "open_clip:ViT-B-16/openai"}
    states = [(entry.role, entry.state, entry.here) for entry in entries(spec)]
    assert states[0] == ("unet", "missing", False)
    assert states[1] == ("unet", f"cannot be fetched: no weights at {moto_s3}/none.pt", False)
    assert states[2] == ("clip", "by name", False)


def test_damage_is_found_whatever_the_file_says_of_its_age(moto_s3: str) -> None:
    storage.write_bytes(f"{moto_s3}/net.pt", b"net")
    path = Path(weights.resolve(f"{moto_s3}/net.pt").files["unet"])
    assert fault(path) is None
    path.write_bytes(b"nut")
    wrong = fault(path)
    assert wrong is not None
    assert f"it had {hashlib.sha256(b'net').hexdigest()}; remove it" in wrong
    assert "the job pins 00" in str(fault(path, "0" * 64))


def test_a_jobs_weights_are_each_told_once(tmp_path: Path) -> None:
    data = {
        "name": "n",
        "manifest": "m",
        "output": "o",
        "editor": {"name": "e", "weights": "a"},
        "metrics": ["x", {"name": "y", "weights": "a"}, {"name": "z", "weights": {"clip": "b"}}],
    }
    assert of_job(parse_job(data, "test")) == ["a", {"clip": "b"}]
    train = {"kind": "train", "name": "n", "manifest": "m", "output": "o", "weights": {"checkpoint": ["a", "b"]}}
    assert of_job(parse_job(train, "test")) == [{"checkpoint": ("a", "b")}]
    metrics = [{"name": "m", "weights": "w"}]
    evaluate = {"kind": "evaluate", "name": "n", "results": "r", "output": "o", "metrics": metrics}
    assert of_job(parse_job(evaluate, "test")) == ["w"]


def test_the_embedded_families_are_whole() -> None:
    assert embedded() == ["embedded:inpaint", "embedded:shapes", "embedded:text_to_image"]
    found: dict[str, list[Entry]] = {address: list(entries(address)) for address in embedded()}
    assert {"unet", "clip", "judge"} <= {entry.role for entry in found["embedded:shapes"]}
    for address in ("embedded:inpaint", "embedded:text_to_image"):
        weights = {f"model_index/{name}" for name in ("unet/config.json", "text_encoder/model.safetensors")}
        assert weights | {"model_index/model_index.json"} <= {entry.role for entry in found[address]}
    for entry in (entry for listed in found.values() for entry in listed):
        assert entry.here
        assert entry.path is not None
        assert fault(entry.path) is None
