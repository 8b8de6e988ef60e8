"""Small objects: every way moves all of them, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from retouch import storage
from retouch.errors import ConfigError, StorageError

from tests.benchmarks import objects

pytestmark = pytest.mark.slow


def test_on_s3_all_ways_are_printed_and_nothing_is_left(moto_s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    objects.main(f"{moto_s3}/place", objects=12, size=100)
    record = json.loads(capsys.readouterr().out)
    ways = {f"{client} {way}" for client in ("bare", "retouch") for way in ("put", "get")}
    assert set(record["per_second"]) == ways | {"files images", "tar images"}
    assert all(rate > 0 for rate in record["per_second"].values())
    assert set(record["ratios"]) == {"retouch / bare, put", "retouch / bare, get", "tar / files"}
    assert storage.list_files(f"{moto_s3}/place") == []


def test_a_local_folder_will_do(tmp_path: Path) -> None:
    assert objects.measure(str(tmp_path), objects=10, size=10)["objects"] == 10
    assert storage.list_files(str(tmp_path)) == []


def test_a_storage_without_a_bare_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="no bare client is known"):
        objects.measure("memory://place", objects=10)


def test_a_bucket_that_is_not_there_is_named(moto_s3: str) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        objects.measure("s3://nowhere/place", objects=10)
