"""Weights are brought to the machine once, whole, and are what they were pinned to be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from retouch import storage
from retouch.errors import WeightsError
from retouch.models import weights

from tests.helpers.s3_server import Endpoint

pytestmark = pytest.mark.slow

COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(data: bytes) -> str:
    """Hex."""
    return hashlib.sha256(data).hexdigest()


def family(folder: str, unet: bytes = b"unet") -> str:
    """A family of two roles, one of them with a configuration and a file that it needs."""
    for name, data in {
        "family.json": b'{"unet": "unet.safetensors", "clip": "clip.safetensors"}',
        "unet.safetensors": unet,
        "clip.safetensors": b"clip",
        "clip.json": b"{}",
        "merges.txt.gz": b"gz",
    }.items():
        storage.write_bytes(storage.join(folder, name), data)
    return folder


def test_a_family_comes_whole_from_anywhere_and_is_the_same_everywhere(place: str, tmp_path: Path) -> None:
    found = weights.resolve(family(storage.join(place, "family")))
    assert set(found.files) == {"unet", "clip"}
    assert Path(found.files["unet"]).read_bytes() == b"unet"
    assert Path(found.files["clip"]).with_name("merges.txt.gz").read_bytes() == b"gz"
    assert found.sha256 == {"unet": sha256(b"unet"), "clip": sha256(b"clip"), "clip.json": sha256(b"{}")}
    assert found.digest == weights.resolve(family(str(tmp_path / "copy"))).digest


def test_a_file_that_changes_is_fetched_again_and_one_that_does_not_is_kept(place: str) -> None:
    folder = family(storage.join(place, "family"))
    first = weights.resolve(folder)
    made = os.stat(first.files["unet"]).st_ino
    assert weights.resolve(folder) == first
    assert os.stat(first.files["unet"]).st_ino == made
    changed = weights.resolve(family(folder, unet=b"another unet"))
    assert Path(changed.files["unet"]).read_bytes() == b"another unet"
    assert changed.digest != first.digest


def test_one_file_is_the_unet_and_brings_its_configuration(place: str) -> None:
    uri = storage.join(place, "net.safetensors")
    storage.write_bytes(uri, b"net")
    storage.write_bytes(storage.join(place, "net.json"), b"[1]")
    found = weights.resolve(uri)
    assert list(found.files) == ["unet"]
    assert Path(found.files["unet"]).with_suffix(".json").read_bytes() == b"[1]"
    storage.write_bytes(storage.join(place, "net.json"), b"[2]")
    again = weights.resolve(uri)
    assert Path(again.files["unet"]).with_suffix(".json").read_bytes() == b"[2]"
    assert again.digest != found.digest


def test_roles_may_come_from_different_places_and_names_pass_through(tmp_path: Path) -> None:
    storage.write_bytes("memory://weights-test/vae.bin", b"vae")
    (tmp_path / "unet.bin").write_bytes(b"unet")
    spec = {
        "unet": str(tmp_path / "unet.bin"),
        "vae": "memory://weights-test/vae.bin",
        "clip": "open_clip:ViT-B-16/openai",
    }
    found = weights.resolve(spec)
    assert found.files["clip"] == spec["clip"]
    assert Path(found.files["vae"]).read_bytes() == b"vae"
    assert found.sha256["vae"] == sha256(b"vae")
    assert found.digest != weights.resolve({**spec, "clip": "open_clip:ViT-B-32/openai"}).digest


def test_a_pin_holds_or_stops_the_run(place: str) -> None:
    uri = storage.join(place, "net.bin")
    storage.write_bytes(uri, b"net")
    assert Path(weights.resolve(f"{uri}#sha256={sha256(b'net')}").files["unet"]).read_bytes() == b"net"
    with pytest.raises(WeightsError, match=f"sha256 {sha256(b'net')}, the job pins {'0' * 64}"):
        weights.resolve({"unet": f"{uri}#sha256={'0' * 64}"})


def test_the_embedded_family_has_the_roles_that_it_names() -> None:
    family = json.loads((weights.EMBEDDED / "shapes" / "family.json").read_text())
    assert {"unet", "clip"} <= set(weights.resolve("embedded:shapes").files) < set(family)


def test_an_embedded_folder_of_diffusers_is_what_the_same_folder_is_elsewhere(tmp_path: Path) -> None:
    found = weights.resolve("embedded:inpaint")
    assert list(found.files) == ["model_index"]
    assert Path(found.files["model_index"]).name == "model_index.json"
    copied = shutil.copytree(weights.EMBEDDED / "inpaint", tmp_path / "elsewhere")
    assert weights.resolve(str(copied)).digest == found.digest
    assert weights.resolve({"model_index": "embedded:inpaint"}).digest == found.digest
    (copied / "unet" / "config.json").write_text("{}")
    assert weights.resolve(str(copied)).digest != found.digest


def test_an_embedded_folder_joins_the_roles_of_a_family() -> None:
    found = weights.resolve({"family": "embedded:shapes", "model_index": "embedded:text_to_image"})
    assert {"clip", "judge", "model_index"} <= set(found.files)
    with pytest.raises(WeightsError, match=r"embedded/shapes has no model_index\.json"):
        weights.resolve({"model_index": "embedded:shapes"})


def test_what_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    family(str(tmp_path / "holed"))
    (tmp_path / "holed" / "clip.safetensors").unlink()
    family(str(tmp_path / "broken"))
    for name, text in {"broken": "{", "listed": "[1]"}.items():
        storage.write_bytes(str(tmp_path / name / "family.json"), text.encode())
    for spec, line in [
        ("embedded:nothing", "no embedded weights 'embedded:nothing'; the package has: inpaint, shapes, text_to_image"),
        ("embedded:inpaint#variant=fp16", "no component has the variant 'fp16'"),
        (str(tmp_path / "none.bin"), r"no weights at .*none\.bin; give a file"),
        ("memory://none/none.bin", "no weights at memory://none/none.bin"),
        (str(tmp_path / "bare"), r"has no family\.json and no model_index\.json"),
        ({"model_index": str(tmp_path / "bare")}, r"has no model_index\.json"),
        (str(tmp_path / "holed"), r"names clip\.safetensors for clip, which is missing"),
        (str(tmp_path / "broken"), "is not JSON"),
        (str(tmp_path / "listed"), "names no file for any role"),
        ("hf://only", "is not hf://owner/repo/file"),
        ({"unet": "nosuch://x"}, "unet: nosuch://x"),
    ]:
        with pytest.raises(WeightsError, match=line) as caught:
            weights.resolve(spec)
        assert "\n" not in str(caught.value)


def test_a_signed_web_address_is_kept_under_the_files_own_name(
    moto_s3: str, moto_endpoint: Endpoint, cache: Path
) -> None:
    for name in ("net.safetensors", "net.json"):
        storage.write_bytes(f"{moto_s3}/{name}", name.encode())
    web = f"{moto_endpoint.url}/{moto_s3.removeprefix('s3://')}/net.safetensors"
    found = weights.resolve(f"{web}?X-Amz-Date=1&X-Amz-Signature=planted")
    assert Path(found.files["unet"]).name == "net.safetensors"
    assert list(found.sha256) == ["unet"]  # nothing is signed but the file
    assert not [path for path in cache.rglob("*") if "planted" in path.name]


INDEX = b'{"_class_name": "X", "unet": ["diffusers", "X"], "image_encoder": ["x", "X"], "safety": [null, null]}'
COMPONENTS = {
    "model_index.json": INDEX,
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"unet",
    "image_encoder/config.json": b"{}",
    "image_encoder/model.safetensors": b"encoder",
}
NOT_LOADED = {
    "model.ckpt": b"five gigabytes",
    "README.md": b"#",
    "unet/diffusion_pytorch_model.fp16.bin": b"half",
    "image_encoder/pytorch_model.bin": b"a pickle of the same",
    "image_encoder/flax_model.msgpack.index.json": b"{}",
    "image_encoder/openvino_model.bin": b"another library's",
    "vae_1_0/diffusion_pytorch_model.safetensors": b"of no component",
    "safety/model.safetensors": b"of a component that is switched off",
    "samples/unet/picture.json": b"{}",
}


def test_a_folder_of_diffusers_comes_with_its_components_and_nothing_else(place: str, tmp_path: Path) -> None:
    folder = storage.join(place, "published")
    for name, data in {**COMPONENTS, **NOT_LOADED}.items():
        storage.write_bytes(storage.join(folder, name), data)
    found = weights.resolve(folder)
    index = Path(found.files["model_index"])
    assert list(found.files) == ["model_index"]
    assert {name: (index.parent / name).read_bytes() for name in COMPONENTS} == COMPONENTS
    assert storage.local_path(folder) is not None or not (index.parent / "model.ckpt").exists()
    assert found.sha256 == {
        "model_index": sha256(INDEX),
        **{f"model_index/{name}": sha256(data) for name, data in COMPONENTS.items()},
    }
    assert weights.resolve({"model_index": folder}) == found
    storage.write_bytes(storage.join(folder, "unet/diffusion_pytorch_model.bin"), b"another unet")
    assert weights.resolve(folder).digest != found.digest


@pytest.mark.slow
def test_several_processes_of_a_node_fetch_a_file_once(tmp_path: Path, moto_s3: str) -> None:
    uri = storage.join(moto_s3, "net.bin")
    storage.write_bytes(uri, b"net" * 1000)
    code = (
        "import sys; from retouch.models import weights; from retouch.storage import downloads\n"
        "plain = downloads._fetch\n"
        "def counted(*arguments): print('fetched'); plain(*arguments)\n"
        "downloads._fetch = counted\n"
        "assert len(open(weights.resolve(sys.argv[1]).files['unet'], 'rb').read()) == 3000\n"
    )
    command = [sys.executable, "-c", code, uri]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "".join(printed).count("fetched") == 1


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that speaks as much of the Hub's protocol as downloads need; its address and the requested paths."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            data = files.get(path)
            self.send_response(404 if data is None else 200)
            if data is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{sha256(data or b"")}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if body:
                self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_file_of_the_hub_comes_with_its_configuration(tmp_path: Path) -> None:
    files = {"/me/net/resolve/main/a/unet.bin": b"net", "/me/net/resolve/main/a/unet.json": b"{}"}
    files["/me/net/resolve/v2/plain.bin"] = b"plain"
    code = (
        "from pathlib import Path\nfrom retouch.errors import WeightsError\n"
        "from retouch.models.weights import resolve\n"
        "file = Path(resolve('hf://me/net/a/unet.bin').files['unet'])\n"
        "assert (file.read_bytes(), file.with_suffix('.json').read_bytes()) == (b'net', b'{}')\n"
        "assert Path(resolve('hf://me/net@v2/plain.bin').files['unet']).read_bytes() == b'plain'\n"
        "try: resolve('hf://me/net/none.bin')\n"
        "except WeightsError as error: assert 'cannot be fetched from the Hub' in str(error)\n"
        "else: raise SystemExit('a file that is not there was resolved')\n"
    )
    with hub(files) as (url, _):
        in_a_process(code, url, tmp_path)


def in_a_process(code: str, url: str, tmp_path: Path, **more: str) -> str:
    """Run code as a user of this Hub; its address is read when the Hub's client is imported."""
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **more}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository(files: Mapping[str, bytes], revision: str = "main") -> dict[str, bytes]:
    """The paths and answers of a Hub that holds these files in its one repository."""
    entries = [{"type": "file", "path": n, "size": len(d), "oid": sha256(d)[:40]} for n, d in files.items()]
    return {
        f"/api/models/me/net/revision/{revision}": json.dumps({"id": "me/net", "sha": COMMIT}).encode(),
        f"/api/models/me/net/tree/{COMMIT}": json.dumps(entries).encode(),
        **{f"/me/net/resolve/{COMMIT}/{name}": data for name, data in files.items()},
    }


def test_a_repository_of_the_hub_is_a_folder_of_diffusers(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom retouch.errors import WeightsError\n"
        "from retouch.models.weights import resolve\n"
        "index = Path(resolve('hf://me/net@v2').files['model_index'])\n"
        "assert (index.parent / 'unet/diffusion_pytorch_model.bin').read_bytes() == b'unet'\n"
        "try: resolve('hf://me/none')\n"
        "except WeightsError as error: assert 'hf://me/none cannot be fetched from the Hub' in str(error)\n"
        "else: raise SystemExit('a repository that is not there was resolved')\n"
    )
    with hub(repository({**COMPONENTS, **NOT_LOADED}, "v2")) as (url, asked):
        in_a_process(code, url, tmp_path)
        fetched = {path.removeprefix(f"/me/net/resolve/{COMMIT}/") for path in asked if "/resolve/" in path}
        assert fetched == set(COMPONENTS)


def test_a_repository_in_the_cache_needs_no_hub(tmp_path: Path) -> None:
    code = "from retouch.models.weights import resolve\nprint(resolve('hf://me/net').digest)\n"
    listed = (
        "from retouch.models.weights.inventory import entries\nfor e in entries('hf://me/net'): print(e.role, e.state)"
    )
    with hub(repository(COMPONENTS)) as (url, asked):
        assert in_a_process(listed, url, tmp_path) == "unet remote\n"
        first = in_a_process(code, url, tmp_path)
        asked.clear()
        assert in_a_process(code, url, tmp_path) == first
        assert not [path for path in asked if "/resolve/" in path]
    assert in_a_process(code, url, tmp_path, HF_HUB_OFFLINE="1") == first
    lines = in_a_process(listed, url, tmp_path, HF_HUB_OFFLINE="1").splitlines()
    assert lines == [f"model_index/{name} cached" for name in sorted(COMPONENTS)]


def test_a_family_in_a_mapping_brings_its_roles_and_the_others_replace_them(tmp_path: Path) -> None:
    other = tmp_path / "mine.safetensors"
    other.write_bytes(b"other")
    family = weights.resolve("embedded:shapes").files
    mixed = weights.resolve({"family": "embedded:shapes", "blue": str(other), "clip": str(other)}).files
    assert mixed == {**family, "blue": str(other), "clip": str(other)}
