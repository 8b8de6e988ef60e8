"""Storage keeps objects whole, on every kind of storage alike."""

from __future__ import annotations

import io
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stamina
from retouch import storage
from retouch.errors import ObjectMissing, StorageError, Unavailable
from retouch.manifests.decode import DecodeSpec, decode
from retouch.storage import remote, retries

from tests.conftest import new_bucket
from tests.helpers.s3_server import Endpoint, Fault, faulty


def test_what_is_written_is_read_back_and_overwritten_whole(place: str) -> None:
    uri = storage.join(place, "a/b.bin")
    storage.write_bytes(uri, b"long first content")
    storage.write_bytes(uri, b"short")
    assert storage.read_bytes(uri) == b"short"


def test_an_empty_object_is_an_object(place: str) -> None:
    uri = storage.join(place, "empty")
    storage.write_bytes(uri, b"")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b""


def test_a_table_is_read_back_as_it_was_written(place: str) -> None:
    table = pa.table({"key": ["a", None], "score": [1.5, 2.5]}).replace_schema_metadata({"by": "hand"})
    storage.write_table(storage.join(place, "rows.parquet"), table)
    found = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(place, "rows.parquet"))))
    assert found.equals(table, check_metadata=True)


def test_what_is_not_there_is_named_as_missing(place: str) -> None:
    uri = storage.join(place, "none.bin")
    assert not storage.exists(uri)
    for ask in (storage.read_bytes, storage.identity, storage.open_input):
        with pytest.raises(ObjectMissing, match=r"no object at .*none\.bin"):
            ask(uri)
    assert storage.list_files(place) == []


def test_of_eight_that_create_at_once_one_wins_and_its_bytes_stay(place: str) -> None:
    for turn in range(3):
        uri = storage.join(place, f"lease-{turn}")
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda i, uri=uri: storage.create_if_absent(uri, b"%d" % i), range(8)))
        assert won.count(True) == 1
        assert storage.read_bytes(uri) == b"%d" % won.index(True)
        assert storage.create_if_absent(uri, b"late") is False


def test_files_are_listed_at_any_depth_by_suffix_and_without_those_on_their_way(place: str) -> None:
    for name in ("b.parquet", "deep/er/a.parquet", "c.json", ".hidden.parquet", "deep/.x.tmp"):
        storage.write_bytes(storage.join(place, name), b"x")
    assert storage.list_files(place, ".parquet") == [
        storage.join(place, "b.parquet"),
        storage.join(place, "deep/er/a.parquet"),
    ]
    assert len(storage.list_files(place)) == 3
    assert storage.list_files(storage.join(place, "nowhere")) == []


def test_a_folder_does_not_list_its_namesake(place: str) -> None:
    storage.write_bytes(storage.join(place, "results/x"), b"")
    storage.write_bytes(storage.join(place, "results-old/y"), b"")
    assert storage.list_files(storage.join(place, "results")) == [storage.join(place, "results/x")]


def test_folders_and_files_are_told_apart(place: str) -> None:
    storage.write_bytes(storage.join(place, "folder/file"), b"x")
    assert storage.is_folder(storage.join(place, "folder"))
    assert not storage.is_folder(storage.join(place, "folder/file"))
    assert not storage.is_folder(storage.join(place, "fold"))
    assert storage.exists(storage.join(place, "folder"))


def test_a_glob_names_addresses_that_can_be_read(place: str) -> None:
    for name in ("a1.parquet", "a2.parquet", "b1.parquet"):
        storage.write_bytes(storage.join(place, name), name.encode())
    found = storage.glob(storage.join(place, "a*.parquet"))
    assert [storage.read_bytes(uri) for uri in found] == [b"a1.parquet", b"a2.parquet"]


def test_deleting_twice_is_as_good_as_once(place: str) -> None:
    uri = storage.join(place, "x")
    storage.write_bytes(uri, b"x")
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_an_identity_changes_with_the_content(place: str) -> None:
    uri = storage.join(place, "x")
    storage.write_bytes(uri, b"one")
    before = storage.identity(uri)
    assert storage.identity(uri) == before
    storage.write_bytes(uri, b"two!")
    assert storage.identity(uri) != before


def test_a_local_identity_is_the_content_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        storage.write_bytes(str(tmp_path / name), b"same")
    assert storage.identity(str(tmp_path / "a")) == storage.identity(f"file://{tmp_path}/b")


@pytest.mark.parametrize("listed_from", [2, 1000])
def test_identities_of_many_equal_those_of_each(place: str, listed_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LISTED_FROM", listed_from)
    uris = [storage.join(place, f"in/{i}.bin") for i in range(5)]
    for uri in uris[:4]:
        storage.write_bytes(uri, uri.encode())
    expected = {uri: storage.identity(uri) for uri in uris[:4]} | {uris[4]: None}
    assert storage.identities([*uris, *uris]) == expected


def test_an_input_is_read_in_parts(place: str) -> None:
    uri = storage.join(place, "x")
    storage.write_bytes(uri, bytes(range(100)))
    with storage.open_input(uri) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == bytes(range(90, 100))
        assert file.read(5) == b""
        file.seek(3)
        assert (file.read(2), file.tell()) == (b"\x03\x04", 5)


def test_a_download_is_whole(place: str, tmp_path: Path) -> None:
    uri = storage.join(place, "x")
    storage.write_bytes(uri, b"content")
    storage.download(uri, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"content"
    with pytest.raises(ObjectMissing):
        storage.download(storage.join(place, "none"), tmp_path / "other")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and "new" in path.parts] == ["copy"]
    assert not (tmp_path / "other").exists()


def test_a_local_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        storage.write_bytes(str(tmp_path / "folder"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_writer_killed_half_way_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "x"
    storage.write_bytes(str(target), b"old")
    code = (
        "import os, pathlib; from retouch import storage\n"
        "def part(self, data): os.write(os.open(self, os.O_CREAT | os.O_WRONLY), data[:3]); os._exit(9)\n"
        "pathlib.Path.write_bytes = part\n"
        f"storage.write_bytes({str(target)!r}, b'new content')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert target.read_bytes() == b"old"
    assert storage.list_files(str(tmp_path)) == [str(target)]


def test_addresses_join_with_single_slashes() -> None:
    assert storage.join("s3://b/p/", "/a/", "b.png") == "s3://b/p/a/b.png"
    assert storage.join("memory://", "a") == "memory://a"
    assert storage.join("/", "a") == "/a"
    assert storage.join("runs/q", "") == "runs/q"
    assert storage.join("", "a", "b") == "a/b"


def test_an_unknown_kind_of_address_is_an_error_of_one_line() -> None:
    with pytest.raises(StorageError, match=r"nosuch://x: .*nosuch") as caught:
        storage.read_bytes("nosuch://x")
    assert "\n" not in str(caught.value)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same retries with waits that a test can afford."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(retries, "JITTER", 0.01)


@pytest.fixture
def silent_retries() -> Iterator[None]:
    """Silence stamina's log of retries."""
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(before)


@pytest.mark.parametrize("status", [500, 503, 429, 0])
@pytest.mark.usefixtures("quick_retries", "silent_retries")
def test_what_passes_is_tried_again(moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    faults = iter([status] * 3)
    bad = [False]
    with faulty(moto_endpoint, lambda method, path: next(faults, None) if bad[0] else None) as gateway:
        uri = storage.join(new_bucket(gateway, monkeypatch), "x")
        bad[0] = True
        storage.write_bytes(uri, b"kept")
        assert next(faults, None) is None
        assert storage.read_bytes(uri) == b"kept"


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["cut", "flip", "slow"])
@pytest.mark.usefixtures("quick_retries", "silent_retries")
def test_bytes_that_were_cut_or_changed_on_their_way_are_noticed_and_sent_again(
    ceph_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, fault: Literal["cut", "flip", "slow"]
) -> None:
    data = secrets.token_bytes(300_000)
    faults: list[Fault] = []

    def answer(method: str, path: str) -> Fault:
        return faults.pop() if faults and "/x" in path and method in ("PUT", "GET") else None

    with faulty(ceph_endpoint, answer) as gateway:
        uri = storage.join(new_bucket(gateway, monkeypatch), "x")
        faults[:] = [fault]
        storage.write_bytes(uri, data)
        assert not faults
        faults[:] = [fault]
        assert storage.read_bytes(uri) == data
        assert not faults
        faults[:] = [fault]
        with storage.open_input(uri) as file:
            file.seek(1000)
            assert file.read(500) == data[1000:1500]


def test_a_store_whose_etags_are_no_md5_is_believed_when_it_says_the_same_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def get(*_: object) -> tuple[bytes, str]:
        return b"content", "0" * 32

    monkeypatch.setattr(remote, "_get", get)
    fs, inside = storage.filesystem("s3://bucket/x")
    assert remote.read(fs, inside) == b"content"


@pytest.mark.s3
def test_refused_credentials_stop_the_run_and_fail_no_row(
    ceph_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(ceph_endpoint, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired-meanwhile")
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    try:
        with pytest.raises(Unavailable, match="SignatureDoesNotMatch") as error:
            storage.write_bytes(f"{bucket}/x", b"x")
        assert error.value.exit_code == 3
        assert "expired-meanwhile" not in str(error.value)
        with pytest.raises(Unavailable):
            decode({"key": "k", "fingerprint": "f", "image": f"{bucket}/image.png"}, DecodeSpec(frozenset()))
    finally:
        clients.clear_instance_cache()


def test_a_full_disk_stops_the_run_and_leaves_what_was_there(tmp_path: Path) -> None:
    """On a real filesystem of 64 kB, where this process may mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small filesystem needs the right to mount one: {mounted.stderr.strip()}")
    try:
        storage.write_bytes(str(tmp_path / "x"), b"kept")
        with pytest.raises(Unavailable, match="No space left on device"):
            storage.write_bytes(str(tmp_path / "x"), bytes(1 << 20))
        assert storage.read_bytes(str(tmp_path / "x")) == b"kept"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.usefixtures("quick_retries", "silent_retries")
def test_what_does_not_pass_ends_after_bounded_tries(moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with faulty(moto_endpoint, lambda method, path: asked.append(path) or 503 if "/x" in path else None) as gateway:
        uri = storage.join(new_bucket(gateway, monkeypatch), "x")
        with pytest.raises(StorageError, match="x: "):
            storage.write_bytes(uri, b"lost")
        assert len(asked) == retries.ATTEMPTS


@pytest.mark.usefixtures("quick_retries", "silent_retries")
def test_a_refusal_is_not_tried_again(moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with faulty(moto_endpoint, lambda method, path: asked.append(path) or 403 if "/x" in path else None) as gateway:
        uri = storage.join(new_bucket(gateway, monkeypatch), "x")
        with pytest.raises(StorageError):
            storage.read_bytes(uri)
        assert len(asked) == 1


@pytest.mark.usefixtures("quick_retries", "silent_retries")
def test_a_create_whose_reply_was_lost_is_known_to_be_ours(
    moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([0])
    with faulty(moto_endpoint, lambda m, path: next(lost, None) if m == "PUT" and "/x" in path else None) as gateway:
        uri = storage.join(new_bucket(gateway, monkeypatch), "x")
        assert storage.create_if_absent(uri, b"mine") is True
        assert next(lost, None) is None
        assert storage.create_if_absent(uri, b"another's") is False


def test_a_bucket_that_is_not_there_is_no_missing_object(moto_s3: str) -> None:
    with pytest.raises(StorageError, match="s3://retouch-nowhere/x") as caught:
        storage.write_bytes("s3://retouch-nowhere/x", b"x")
    assert not isinstance(caught.value, ObjectMissing)
    assert moto_s3


@pytest.mark.s3
def test_a_gateway_that_refuses_checksum_trailers_is_served_without_settings(
    real_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    code = (
        "import sys; from retouch import storage\n"
        "assert storage.create_if_absent(sys.argv[1], b'x' * 100_000)\n"
        "assert storage.read_bytes(sys.argv[1]) == b'x' * 100_000\n"
    )
    subprocess.run([sys.executable, "-c", code, storage.join(real_s3, "x")], check=True)


@pytest.mark.s3
def test_a_wrong_secret_is_an_error_of_one_line(real_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    code = (
        "import sys; from retouch import storage; from retouch.errors import ObjectMissing, StorageError\n"
        "try: storage.read_bytes(sys.argv[1])\n"
        "except StorageError as error: assert not isinstance(error, ObjectMissing); print(error)\n"
    )
    command = [sys.executable, "-c", code, storage.join(real_s3, "x")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(printed.splitlines()) == 1
    assert "PermissionError" in printed
