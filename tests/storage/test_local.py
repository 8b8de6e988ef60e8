"""Local files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from retouch.storage import local


def test_nothing_is_left_next_to_a_file_that_could_not_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        local.replace(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_filesystem_without_hard_links_still_has_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda i: local.create(tmp_path / "lease", b"%d" % i), range(8)))
    assert won.count(True) == 1
    assert (tmp_path / "lease").read_bytes() == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_other_faults_of_linking_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="disk"):
        local.create(tmp_path / "lease", b"x")
