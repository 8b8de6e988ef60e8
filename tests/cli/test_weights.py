"""``retouch weights``: told, fetched, held against their hashes, converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from retouch import storage
from retouch.cli.app import main
from retouch.models.weights.inventory import cached
from safetensors.torch import load_file

from tests.helpers.datasets import painter_job
from tests.helpers.tiny_clip import write_openai_layout


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Exit code, what was printed, what was said to standard error."""
    with pytest.raises(SystemExit) as found:
        main(["weights", *arguments])
    out, err = capsys.readouterr()
    return int(found.value.code or 0), out.splitlines(), err


def job(tmp_path: Path, unet: object) -> str:
    editor = {"name": "tests.helpers.painters:Painter", "weights": {"unet": unet}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(painter_job(tmp_path, "m.parquet", editor=editor).model_dump(mode="json")))
    return str(path)


def test_a_jobs_weights_are_listed_fetched_and_verified(
    tmp_path: Path, moto_s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_bytes(f"{moto_s3}/net.pt", b"net")
    path = job(tmp_path, [f"{moto_s3}/net.pt", f"{moto_s3}/mirror.pt"])
    code, lines, _ = ended(capsys, "list", path)
    assert code == 1  # the mirror is not there
    assert lines[0].split() == ["unet", "3", "-", "remote", f"{moto_s3}/net.pt"]
    assert "cannot be fetched" in lines[1]
    storage.write_bytes(f"{moto_s3}/mirror.pt", b"net")
    assert ended(capsys, "list", path)[0] == 0
    code, lines, _ = ended(capsys, "fetch", path)
    (file,) = cached()
    assert code == 0
    assert lines[0].split()[0] == "unet"
    assert lines[0].endswith(str(file))
    assert ended(capsys, "list", path)[1][0].split()[3] == "cached"
    assert ended(capsys, "verify", path)[:2] == (
        0,
        [f"unet: {moto_s3}/mirror.pt: remote; not checked", f"{file}: ok", "1 files, 0 damaged"],
    )
    file.write_bytes(b"nut")
    code, lines, _ = ended(capsys, "verify")
    assert code == 1
    assert lines[0].startswith(f"{file}: has sha256 ")
    assert lines[1] == "1 files, 1 damaged"


def test_without_a_job_the_embedded_families_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, _ = ended(capsys, "list")
    assert code == 0
    assert {"unet", "clip", "judge"} <= {line.split()[0] for line in lines}


def test_a_published_checkpoint_becomes_safetensors_of_the_same_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = write_openai_layout(tmp_path, archive=True)
    target = tmp_path / "out" / "clip.safetensors"
    code, lines, _ = ended(capsys, "convert", source, str(target))
    assert code == 0
    assert lines == [f"{target}: an OpenAI CLIP: role clip"]
    shared = torch.arange(6.0)
    torch.save({"state_dict": {"a": shared, "b": shared[2:], "c": torch.ones(2, 3).half().t()}}, tmp_path / "net.ckpt")
    (tmp_path / "net.json").write_text("{}")
    net = tmp_path / "net.safetensors"
    code, lines, _ = ended(capsys, "convert", str(tmp_path / "net.ckpt"), str(net))
    assert lines == [f"{net}: no loader of this package reads it (3 tensors, first: a)"]
    found = load_file(net)
    assert {name: value.dtype for name, value in found.items()} == {
        "a": torch.float32,
        "b": torch.float32,
        "c": torch.float16,
    }
    assert torch.equal(found["b"], shared[2:])
    assert found["c"].shape == (3, 2)


def test_what_cannot_be_converted_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pt")
    for source, target, said in [
        ("none.pt", "net.safetensors", "no weights at none.pt"),
        ("net.pt", "net.bin", "ending in .safetensors"),
    ]:
        code, _, err = ended(capsys, "convert", str(tmp_path / source) if source == "net.pt" else source, target)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
