"""A manifest's columns are converted to one type each; nulls stay nulls."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from retouch.errors import ManifestError
from retouch.manifests.columns import (
    IMAGE_STRUCT,
    as_structs,
    canonical,
    check_texts,
    image_source,
    map_addresses,
    meant,
)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary(), IMAGE_STRUCT])
def test_an_image_column_of_any_kind_becomes_structs_and_keeps_its_nulls(kind: pa.DataType) -> None:
    cell = {pa.string(): "x", pa.large_binary(): b"x", IMAGE_STRUCT: {"bytes": b"x", "path": "x"}}[kind]
    column = pa.chunked_array([pa.array([cell, None], kind), pa.array([None], kind), pa.array([], kind)])
    structs = as_structs(canonical("image", column, "f"))
    assert structs.type == IMAGE_STRUCT
    assert structs.is_valid().to_pylist() == [True, False, False]
    assert structs[0].as_py() == {
        "bytes": b"x" if kind != pa.string() else None,
        "path": "x" if kind != pa.large_binary() else None,
    }


def test_a_struct_with_either_field_in_any_order_is_an_image() -> None:
    for cell in (
        {"path": "x"},
        {"bytes": b"x"},
        {"path": "x", "bytes": b"x", "more": 1},
        {"path": None, "bytes": b"x"},
    ):
        assert canonical("image", pa.chunked_array([pa.array([cell])]), "f").type == IMAGE_STRUCT
    for cell in ({"url": "x"}, {"path": 1}, {"bytes": "x"}):
        with pytest.raises(ManifestError, match="f: column 'image'"):
            canonical("image", pa.chunked_array([pa.array([cell])]), "f")


def test_addresses_are_replaced_and_bytes_left() -> None:
    for column, expected in [
        (pa.array(["a", None]), ["A", None]),
        (pa.array([b"a", None], pa.large_binary()), [b"a", None]),
        (
            pa.array([{"bytes": b"a", "path": "a"}, {"bytes": b"b", "path": None}, None], IMAGE_STRUCT),
            [{"bytes": b"a", "path": "A"}, {"bytes": b"b", "path": None}, None],
        ),
    ]:
        assert map_addresses(pa.chunked_array([column]), str.upper).to_pylist() == expected


def test_landmarks_are_a_flat_list_however_the_points_are_nested() -> None:
    flat = pa.list_(pa.float64())
    for kind, cell in [
        (flat, [1, 2, 3, 4]),
        (pa.list_(pa.int16()), [1, 2, 3, 4]),
        (pa.list_(pa.list_(pa.float32())), [[1, 2], [3, 4]]),
        (pa.list_(pa.list_(pa.int64(), 2), 2), [[1, 2], [3, 4]]),
    ]:
        column = pa.chunked_array([pa.array([cell, None], kind), pa.array([cell], kind)])
        found = canonical("landmarks", column, "f")
        assert found.type == flat
        assert found.to_pylist() == [[1, 2, 3, 4], None, [1, 2, 3, 4]]
    assert canonical("landmarks", pa.chunked_array([pa.nulls(2)]), "f").to_pylist() == [None, None]
    for cell in (["1"], [["1"]], {"left_eye": [1, 2]}):
        with pytest.raises(ManifestError, match=r"f: column 'landmarks' is .*; expected list of points x, y"):
            canonical("landmarks", pa.chunked_array([pa.array([cell])]), "f")


def test_texts_that_are_no_utf_8_are_refused_wherever_they_stand_and_images_may_hold_any_byte() -> None:
    wrong = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    structs, lists = pa.StructArray.from_arrays([wrong], ["x"]), pa.ListArray.from_arrays(pa.array([0, 1, 2]), wrong)
    for column in (wrong, structs, lists, wrong.dictionary_encode()):
        with pytest.raises(ManifestError, match=r"f: column 'note' .* not UTF-8: .*UTF8 .*write it again"):
            check_texts(pa.table({"key": ["a", "b"], "note": column}), "f")
    check_texts(pa.table({"key": ["a", "\u00e9"], "image": [b"caf\xe9", None]}), "f")


@pytest.mark.parametrize(
    ("cell", "source"),
    [
        ("a.png", "a.png"),
        (b"png", b"png"),
        ({"bytes": b"png", "path": "a.png"}, b"png"),
        ({"bytes": None, "path": "a.png"}, "a.png"),
        ({"bytes": None, "path": None}, None),
        (None, None),
    ],
)
def test_an_image_cell_holds_bytes_before_an_address(cell: Any, source: str | bytes | None) -> None:
    assert image_source(cell) == source


@pytest.mark.parametrize(
    ("name", "found"),
    [("caption", "prompt"), ("Instruction", "prompt"), ("mask_path", "mask"), ("promt", "prompt"), ("label", None)],
)
def test_a_column_that_another_project_calls_otherwise_is_recognized(name: str, found: str | None) -> None:
    assert meant(name, ["prompt", "mask"]) == found
    assert meant(name, []) is None
