"""A hash is computed once, and never trusted for a file that changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from retouch.storage import file_hashes


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_known_hash_is_not_trusted_for_a_file_that_changed(tmp_path: Path) -> None:
    file = tmp_path / "net.bin"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert file_hashes.file_sha256(file) == sha256(b"one")
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert file_hashes.file_sha256(file) == sha256(b"two")


def test_a_hash_is_found_without_a_place_to_remember_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "file"))
    assert file_hashes.file_sha256(tmp_path / "file") == sha256(b"x")


def test_what_was_recorded_of_a_file_stays_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "net.bin"
    file.write_bytes(b"one")
    assert file_hashes.recorded(file) is None
    assert file_hashes.record(file) == sha256(b"one")
    file.write_bytes(b"two")
    assert file_hashes.recorded(file) == sha256(b"one")
