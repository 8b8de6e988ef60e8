"""A file is downloaded whole or not at all, resumes where it was interrupted, and matches the store's hash."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch import storage, telemetry
from retouch.errors import ObjectMissing, StorageError
from retouch.storage import downloads

from tests.conftest import new_bucket
from tests.helpers.s3_server import Endpoint, Fault, faulty
from tests.helpers.web_files import Web, serving

PART = 1000
CONTENT = os.urandom(PART * 10 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PART", PART)
    monkeypatch.setattr(downloads, "PARALLEL_PARTS", 2)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving({"/net.pt": CONTENT}) as found:
        yield found


def test_a_large_file_comes_in_parts_from_any_storage_and_whoever_watches_hears_of_each(
    place: str, tmp_path: Path
) -> None:
    uri = storage.join(place, "net.pt")
    storage.write_bytes(uri, CONTENT)
    if storage.local_path(uri) is not None:
        uri = f"file://{uri}"
    heard: list[int] = []
    before = telemetry.totals().get("fetched_bytes", 0)
    with downloads.watched(heard.append):
        downloads.fetch(uri, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == CONTENT
    assert sum(heard) == len(CONTENT)
    assert max(heard) == PART
    assert telemetry.totals()["fetched_bytes"] - before == len(CONTENT)
    assert [path.name for path in tmp_path.glob("*net.pt*")] == ["net.pt"] or not list(tmp_path.glob("*.part"))


def test_what_was_broken_off_goes_on_behind_its_last_byte(web: Web, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    web.refuse_after = 5
    with pytest.raises(StorageError):
        downloads.fetch(f"{web.url}/net.pt", path)
    assert not path.exists()
    have = (tmp_path / ".net.pt.part").stat().st_size
    assert 0 < have < len(CONTENT)
    web.refuse_after, web.asked = None, []
    downloads.fetch(f"{web.url}/net.pt", path)
    assert path.read_bytes() == CONTENT
    assert min(first for first, _ in web.asked) == have
    assert not (tmp_path / ".net.pt.part").exists()


def test_a_connection_that_breaks_costs_its_part_and_no_more(
    moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def cut_the_third(method: str, path: str) -> Fault:
        asked.append(path)
        return "cut" if method == "GET" and path.endswith("net.pt") and asked.count(path) == 5 else None

    with faulty(moto_endpoint, cut_the_third) as gateway:
        uri = f"{new_bucket(gateway, monkeypatch)}/net.pt"
        storage.write_bytes(uri, CONTENT)
        downloads.fetch(uri, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_a_byte_that_was_changed_on_the_way_is_found_by_the_stores_hash(
    moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flipped: list[str] = []

    def flip_once(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith("net.pt") and not flipped:
            flipped.append(path)
            return "flip"
        return None

    with faulty(moto_endpoint, flip_once) as gateway:
        uri = f"{new_bucket(gateway, monkeypatch)}/net.pt"
        storage.write_bytes(uri, CONTENT)
        downloads.fetch(uri, tmp_path / "net.pt")
    assert flipped
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_a_pin_finds_what_is_wrong_in_what_was_left_and_begins_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / ".net.pt.part").write_bytes(b"\0" * 2500)
    downloads.fetch(f"{web.url}/net.pt", tmp_path / "net.pt", SHA256)
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_another_content_than_the_pins_is_not_put_in_place(web: Web, tmp_path: Path) -> None:
    with pytest.raises(downloads.ContentMismatch) as error:
        downloads.fetch(f"{web.url}/net.pt", tmp_path / "net.pt", "0" * 64)
    assert error.value.sha256 == SHA256
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pt", ".part")]


def test_an_object_that_changes_while_it_is_fetched_is_refused(web: Web, tmp_path: Path) -> None:
    def change(_: int) -> None:
        web.files["/net.pt"] = CONTENT[::-1]

    with downloads.watched(change), pytest.raises(StorageError, match="it changed during the download; run again"):
        downloads.fetch(f"{web.url}/net.pt", tmp_path / "net.pt")
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pt", ".part")]
    downloads.fetch(f"{web.url}/net.pt", tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == CONTENT[::-1]


def test_a_web_server_without_parts_gives_the_whole(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    downloads.fetch(f"{web.url}/net.pt", tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_a_missing_object_is_named(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        downloads.fetch(f"{web.url}/none.pt", tmp_path / "none.pt")
    assert downloads.size_of(f"{web.url}/net.pt") == len(CONTENT)


def test_a_big_file_reports_its_progress(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(downloads, "REPORTED_FROM", PART)
    monkeypatch.setattr(downloads, "INTERVAL", 0.0)
    downloads.fetch(f"{web.url}/net.pt?sig=planted-signature", tmp_path / "net.pt")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("net.pt?***: 0.00 GB")
    assert len(lines) == 12
    assert "planted" not in "".join(lines)


def test_a_process_that_dies_while_it_fetches_keeps_nobody_waiting(web: Web, tmp_path: Path) -> None:
    path, uri = tmp_path / "net.pt", f"{web.url}/net.pt"
    code = (
        "import sys; from pathlib import Path; from retouch.storage import downloads\n"
        f"downloads.PART, downloads.PARALLEL_PARTS = {PART}, 1\n"
        "with downloads.watched(lambda count: (print(count, flush=True), sys.stdin.readline())):\n"
        "    downloads.fetch(sys.argv[1], Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, uri, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        for _ in range(3):  # two parts are on the disk, the third is not
            assert holder.stdout.readline() == f"{PART}\n"
            holder.stdin.write("\n")
            holder.stdin.flush()
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    have = (tmp_path / ".net.pt.part").stat().st_size
    assert have >= 2 * PART
    web.asked = []
    downloads.fetch(uri, path)
    assert path.read_bytes() == CONTENT
    assert min(first for first, _ in web.asked) == have


def test_waiting_for_another_process_is_reported_once(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pt"
    code = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n"
        "    print('held', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".net.pt.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        real = downloads.log

        def let_go(line: str) -> None:
            real(line)
            assert holder.stdin is not None
            holder.stdin.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(downloads, "log", let_go)
            downloads.fetch(f"{web.url}/net.pt", path)
    assert path.read_bytes() == CONTENT
    assert capsys.readouterr().err.count("another process on this machine is fetching") == 1
