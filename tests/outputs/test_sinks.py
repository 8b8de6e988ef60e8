"""Sinks keep every image under an address that belongs to its key and fingerprint alone."""

from __future__ import annotations

import re
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from retouch import plugins, storage
from retouch.errors import ConfigError, ObjectMissing
from retouch.outputs.image_paths import read_image
from retouch.outputs.sinks import FileSink, Sink, TarSink

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
        assert read_image(place, address) == key.encode()
    assert fill(kind(place, list(reversed(ROWS)))) == placed
    assert {uri: storage.read_bytes(uri) for uri in storage.list_files(place)} == before


@pytest.mark.parametrize("kind", [FileSink, TarSink])
def test_an_image_that_is_not_there_is_missing(tmp_path: Path, kind: type) -> None:
    address = fill(kind(str(tmp_path), ROWS))[ROWS[0]]
    with pytest.raises(ObjectMissing):
        read_image(str(tmp_path), address.replace("key", "other"))
    with pytest.raises(ObjectMissing):
        read_image(str(tmp_path), address.replace("images/", "images/x"))


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


NASTY = [
    *("..", ".", "../../etc/passwd", "/etc/passwd", "a/../../b", "images/ab/x.png", "shard-0.tar", "~", "~root"),
    *("..\\..\\x", "C:\\Windows\\x", "C:", "CON", "a\0b", "a\nb", "a\r\nb", " ", "%2e%2e%2f", "%", "#", "a#b"),
    *("$(touch x)", "`touch x`", "; rm -rf .", "|x", "*", "?", "[a]", "-rf", "--"),
    *("x" * 500, "é" * 500, "a" * 119 + "%", "😀", "\u202egnp.exe", "\ufeff"),
]
keys = st.lists(
    st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec="utf-8"), max_size=80)).filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("kind", [FileSink, TarSink])
@settings(max_examples=60, deadline=None)
@given(keys=keys)
@example(keys=NASTY)
def test_no_key_leaves_the_output_or_another_keys_place(kind: type, keys: list[str]) -> None:
    """The output lies deep in a folder of its own, so that whatever climbs out of it is found there."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        output = top / "a" / "b" / "out"
        sink: Sink = kind(str(output), [(key, f"{number:064x}") for number, key in enumerate(keys)])
        data = {key: f"{number} {key}".encode() for number, key in enumerate(keys)}
        placed = {key: sink.put(key, f"{number:064x}", data[key], "png") for number, key in enumerate(keys)}
        sink.close()
        assert everything(top) == everything(output / "images")
        assert len(everything(output)) == (len(keys) if kind is FileSink else 1)
        for path in everything(output):
            assert path.resolve() == path.absolute(), "a link"
            assert re.fullmatch(r"[A-Za-z0-9._%~-]+", path.name)
        assert {key: read_image(str(output), address) for key, address in placed.items()} == data


def test_members_of_a_shard_unpack_into_one_folder(tmp_path: Path) -> None:
    """By a reader that knows nothing of keys, and would go where a name sends it."""
    sink = TarSink(str(tmp_path / "out"), [(key, "f" * 64) for key in NASTY])
    for key in NASTY:
        sink.put(key, "f" * 64, key.encode(), "png")
    sink.close()
    (shard,) = everything(tmp_path / "out")
    with tarfile.open(shard) as tar:
        assert all(member.isfile() and "/" not in member.name and member.name[0] != "." for member in tar)
        (tmp_path / "unpacked").mkdir()
        tar.extractall(tmp_path / "unpacked", filter="fully_trusted")
    assert sorted(path.read_bytes() for path in (tmp_path / "unpacked").iterdir()) == sorted(k.encode() for k in NASTY)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "unpacked"}
