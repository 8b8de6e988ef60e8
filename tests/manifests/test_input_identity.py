"""Inputs are identified by content if it is at hand, else by address."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
from retouch.manifests import deferred_images, input_identity


def test_files_are_known_by_their_content_and_what_is_not_there_by_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    there, gone = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    table = pa.table({"image": [there, gone, there, None], "mask": [None, None, "", there]})
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    found = input_identity.look_up(table, ["image", "mask"])
    assert found == {there: digest, gone: None}
    assert input_identity.identify_cells(table["image"], found) == [digest, f"{gone} missing", digest, None]


def test_bytes_that_stayed_in_their_file_are_no_address(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([b"one", b"two"], pa.large_binary())})
    far = deferred_images.defer(table, str(tmp_path / "rows.parquet"), 0)
    assert input_identity.look_up(far, ["image"]) == {}
    assert input_identity.identify_cells(far["image"], {}) == input_identity.identify_cells(table["image"], {})


def test_a_checkpoint_is_a_file_where_it_has_a_scheme_or_lies_there(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    assert input_identity.is_file(str(tmp_path / "net.pt"))
    assert input_identity.is_file("s3://bucket/net.pt")
    assert not input_identity.is_file("blue")
    assert not input_identity.is_file("hf://owner/name")
