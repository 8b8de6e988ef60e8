"""Names of output files hold for any key, and no two keys share one."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from retouch.outputs.image_paths import image_path, rows_digest, safe_name

awkward = st.sampled_from(
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a%2Fb",
        "%",
        "~",
        "a~",
        "CON",
        "a b",
        "\0",
        "ключ",
        "x" * 500,
        "%" * 130,
    ]
)
keys = st.one_of(st.text(max_size=200), awkward)


@settings(max_examples=300, deadline=None)
@given(key=keys)
@example("é" * 60)
def test_any_key_gives_a_plain_file_name(key: str) -> None:
    name = safe_name(key)
    assert re.fullmatch(r"[A-Za-z0-9._%~-]{1,130}", name)
    assert not name.startswith(".")


@settings(max_examples=300, deadline=None)
@given(one=keys, other=keys)
@example("x" * 500, "x" * 501)
@example("a/b", "a%2Fb")
@example(".a", "%2Ea")
def test_two_keys_never_share_a_name(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_an_image_lies_in_one_of_256_folders_under_key_fingerprint_and_rank() -> None:
    path = image_path("cat 1", "0123456789abcdef" * 4, "png")
    assert re.fullmatch(r"images/[0-9a-f]{2}/cat%201-0123456789abcdef\.png", path)
    assert image_path("cat 1", "0123456789abcdef" * 4 + "-2", "png") == path.replace(".png", "-2.png")
    assert len({image_path(str(i), "f" * 64, "png").split("/")[1] for i in range(5000)}) == 256


def test_rows_have_one_name_whatever_their_order() -> None:
    assert rows_digest([("a", "1"), ("b", "2")]) == rows_digest([("b", "2"), ("a", "1")])
    assert rows_digest([("a", "1"), ("b", "2")]) != rows_digest([("a", "2"), ("b", "1")])
    assert rows_digest([("a\n1:b", "")]) != rows_digest([("a", ""), ("b", "")])
