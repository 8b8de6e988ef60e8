"""Provenance in an image's metadata: PNG text chunks and an XMP packet. Pixels are not changed.

The packet states with IPTC's terms that the image was edited by generative AI, and how: `Digital Source Type
<http://cv.iptc.org/newscodes/digitalsourcetype/>`_ and the AI properties of the IPTC Photo Metadata Standard 2025.1.
The image is not decoded: chunks are inserted into the file.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from retouch.redaction import redacted

# "Edited using generative AI": composed with the output of a trained model, for example by inpainting.
SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
LONGEST: Final = 4000  # characters per text; a JPEG segment holds 64 KB
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_XMP_IN_JPEG: Final = b"http://ns.adobe.com/xap/1.0/\0"
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10  # of WebP's VP8X


def describe_row(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts about an edited image, by name.

    Args:
        record: ``run.json``.
        row: its results row, with ``prompt`` from the manifest.
    """
    job = record["job"]
    facts = {
        "Software": f"Retouch {record.get('retouch', '')}".strip(),
        "retouch:job": job["name"],
        "retouch:key": row["key"],
        "retouch:editor": f"{job['editor']['name']} {record.get('editor_version', '')}".strip(),
        "retouch:prompt": row.get("prompt") or "",
        "retouch:seed": "" if row["seed"] is None else str(row["seed"]),
        "retouch:weights_sha256": json.dumps(record.get("decides", {}).get("weights_sha256", {}), sort_keys=True),
        "retouch:fingerprint": row["fingerprint"],
    }
    return {name: redacted(_clean(text)) for name, text in facts.items() if text}


def stamp(data: bytes, facts: Mapping[str, str]) -> bytes:
    """Return the file with these facts in its metadata; one that is not PNG, JPEG or WebP is returned unchanged.

    Args:
        data: an image file's bytes.
        facts: from ``describe_row``.
    """
    packet = _packet(facts)
    if data.startswith(_PNG):
        after = len(_PNG) + 12 + 13  # behind the header chunk, which must stay the first
        texts = b"".join(_text(name, text) for name, text in facts.items())
        return data[:after] + texts + _international("XML:com.adobe.xmp", packet) + data[after:]
    if data.startswith(_JPEG):
        return _in_jpeg(data, packet)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _in_webp(data, packet)
    return data


def _clean(text: str) -> str:
    """Return the text cut to ``LONGEST``, without characters that XML does not allow."""
    return _NO_XML.sub("\ufffd", text[:LONGEST])


def _packet(facts: Mapping[str, str]) -> bytes:
    properties = {
        "xmp:CreatorTool": facts.get("Software", ""),
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": facts.get("retouch:editor", ""),
        "Iptc4xmpExt:AISystemVersionUsed": facts.get("retouch:weights_sha256", ""),
        "Iptc4xmpExt:AIPromptInformation": facts.get("retouch:prompt", ""),
    }
    elements = "".join(f"   <{name}>{escape(text)}</{name}>\n" for name, text in properties.items() if text)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
        '    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">\n'
        f"{elements}"
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    ).encode()


def _text(name: str, text: str) -> bytes:
    """Return a PNG text chunk: tEXt if the text fits Latin-1, else iTXt."""
    try:
        return _chunk(b"tEXt", name.encode("latin-1") + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _international(name, text.encode())


def _international(name: str, text: bytes) -> bytes:
    return _chunk(b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + text)  # not compressed, no language


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _in_jpeg(data: bytes, packet: bytes) -> bytes:
    after = len(_JPEG)
    if data[2:4] == b"\xff\xe0":  # the JFIF segment must stay the first
        after += 2 + int.from_bytes(data[4:6], "big")
    body = _XMP_IN_JPEG + packet
    return data[:after] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[after:]


def _in_webp(data: bytes, packet: bytes) -> bytes:
    """Append the packet and set its flag in the VP8X chunk, which is added if the file has none."""
    body = data[12 : 8 + int.from_bytes(data[4:8], "little")]
    if body[:4] == b"VP8X":
        body = body[:8] + bytes([body[8] | _XMP_FLAG]) + body[9:]
    elif body[:4] == b"VP8L":
        bits = int.from_bytes(body[9:13], "little")  # 14 for width - 1, 14 for height - 1, one for alpha
        flags = _XMP_FLAG | (_ALPHA_FLAG if bits >> 28 & 1 else 0)
        size = (bits & 0x3FFF).to_bytes(3, "little") + (bits >> 14 & 0x3FFF).to_bytes(3, "little")
        body = _riff(b"VP8X", bytes([flags, 0, 0, 0]) + size) + body
    else:
        return data  # lossy, which no job writes
    body += _riff(b"XMP ", packet)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
