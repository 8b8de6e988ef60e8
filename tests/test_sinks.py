"""Sinks keep every image under an address that belongs to its key and fingerprint alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import plugins, storage
from pipeline.addresses import fetch
from pipeline.errors import ConfigError, ObjectMissing
from pipeline.sinks import FileSink, Sink, TarSink

ROWS = [(f"key/{i}", f"{i:064x}") for i in range(20)]


def fill(sink: Sink) -> dict[tuple[str, str], str]:
    """Every row's image put by several threads, and the sink closed."""
    with ThreadPoolExecutor(4) as threads:
        addresses = list(threads.map(lambda row: sink.put(*row, row[0].encode(), "png"), ROWS))
    sink.close()
    return dict(zip(ROWS, addresses, strict=True))


@pytest.mark.parametrize("kind", [FileSink, TarSink])
def test_what_is_put_can_be_fetched_and_writing_it_again_changes_nothing(place: str, kind: type) -> None:
    placed = fill(kind(place, ROWS))
    before = {uri: storage.read_bytes(uri) for uri in storage.list_files(place)}
    assert len(set(placed.values())) == len(ROWS)
    for (key, _), address in placed.items():
        assert fetch(place, address) == key.encode()
    assert fill(kind(place, list(reversed(ROWS)))) == placed
    assert {uri: storage.read_bytes(uri) for uri in storage.list_files(place)} == before


@pytest.mark.parametrize("kind", [FileSink, TarSink])
def test_an_image_that_is_not_there_is_missing(tmp_path: Path, kind: type) -> None:
    address = fill(kind(str(tmp_path), ROWS))[ROWS[0]]
    with pytest.raises(ObjectMissing):
        fetch(str(tmp_path), address.replace("key", "other"))
    with pytest.raises(ObjectMissing):
        fetch(str(tmp_path), address.replace("images/", "images/x"))


def test_a_tar_sink_writes_one_shard_a_block_and_none_for_no_image(tmp_path: Path) -> None:
    TarSink(str(tmp_path), ROWS).close()
    assert storage.list_files(str(tmp_path)) == []
    fill(TarSink(str(tmp_path), ROWS))
    assert len(storage.list_files(str(tmp_path))) == 1


def test_a_tar_sink_without_its_rows_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block's rows"):
        TarSink(str(tmp_path))


def test_sinks_are_found_by_the_names_that_jobs_use() -> None:
    assert plugins.find("sinks", "files") is FileSink
    assert plugins.find("sinks", "tar") is TarSink
