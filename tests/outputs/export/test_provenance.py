"""What is written into an image says what made it, is read by others, and changes no pixel."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from retouch.imaging import codec
from retouch.outputs.export.provenance import LONGEST, SOURCE_TYPE, describe_row, stamp

from tests.helpers.datasets import picture

RECORD = {
    "retouch": "1.2",
    "editor_version": "3",
    "job": {"name": "night", "editor": {"name": "blended_diffusion"}},
    "decides": {"weights_sha256": {"unet": "ab" * 32}},
}
ROW = {"key": "k", "fingerprint": "f", "seed": 7, "prompt": "a red circle"}
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def packet(image: Image.Image) -> dict[str, str]:
    """The properties of an image's XMP packet, as any reader of XML has them."""
    raw = image.info.get("XML:com.adobe.xmp") or image.info["xmp"]
    root = ElementTree.fromstring(raw)
    return {found.tag: found.text or "" for found in root.iter() if not len(found)}


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("kind", ["png", "webp-lossless", "jpeg"])
def test_every_format_says_what_it_is_in_iptcs_words_and_keeps_its_pixels(kind: str, alpha: bool) -> None:
    plane = np.arange(480, dtype=np.uint8).reshape(20, 24) if alpha and kind != "jpeg" else None
    data = codec.encode(picture(1), kind, alpha=plane)
    after = stamp(data, describe_row(RECORD, ROW))
    assert len(after) > len(data)
    image = opened(after)
    before = codec.decode_image(data)
    assert np.array_equal(codec.decode_image(after).pixels, before.pixels)
    assert (before.alpha is None) == (plane is None)
    assert before.alpha is None or np.array_equal(codec.decode_image(after).alpha, before.alpha)
    said = packet(image)
    assert said[f"{IPTC}DigitalSourceType"] == SOURCE_TYPE
    assert said[f"{IPTC}AIPromptInformation"] == "a red circle"
    assert said[f"{IPTC}AISystemUsed"] == "blended_diffusion 3"
    assert json.loads(said[f"{IPTC}AISystemVersionUsed"]) == {"unet": "ab" * 32}


def test_a_png_has_it_as_plain_texts_too() -> None:
    image = opened(stamp(codec.encode(picture(1)), describe_row(RECORD, {**ROW, "prompt": "赤い円"})))
    texts = image.text  # type: ignore[attr-defined]
    assert texts["Software"] == "Retouch 1.2"
    assert (texts["retouch:job"], texts["retouch:key"], texts["retouch:seed"]) == ("night", "k", "7")
    assert texts["retouch:prompt"] == "赤い円"
    assert texts["retouch:weights_sha256"] == json.dumps({"unet": "ab" * 32})


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=60) | st.text("<>&\"'\0\n]", max_size=60), kind=st.sampled_from(list(codec.EXTENSIONS)))
def test_whatever_a_prompt_holds_the_file_can_be_read_and_the_packet_is_xml(prompt: str, kind: str) -> None:
    data = codec.encode(picture(2), kind)
    after = stamp(data, describe_row(RECORD, {**ROW, "prompt": prompt}))
    assert np.array_equal(codec.decode_image(after).pixels, codec.decode_image(data).pixels)
    assert packet(opened(after))[f"{IPTC}DigitalSourceType"] == SOURCE_TYPE


def test_a_text_that_no_segment_holds_is_cut() -> None:
    after = stamp(codec.encode(picture(2), "jpeg"), describe_row(RECORD, {**ROW, "prompt": "&" * 100_000}))
    assert packet(opened(after))[f"{IPTC}AIPromptInformation"] == "&" * LONGEST


def test_credentials_are_in_none_of_it() -> None:
    facts = describe_row(RECORD, {**ROW, "prompt": "from https://user:geheim-123@host/x.png"})
    assert "geheim" not in json.dumps(facts)
    assert "***" in facts["retouch:prompt"]


def test_a_file_of_another_kind_is_left_as_it_is() -> None:
    assert stamp(b"no image", describe_row(RECORD, ROW)) == b"no image"
