"""Content Credentials of an exported image: what made it, signed by whoever exports (C2PA). Knows no row and no format.

The claim says in IPTC's words that a trained model composed the image, with which editor and prompt, and binds that to
the file's bytes: a changed pixel breaks it. Signing is c2pa-rs's, by its Python package, which is the extra ``c2pa``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from retouch.errors import ConfigError, EditError
from retouch.imaging import codec
from retouch.outputs.export.provenance import SOURCE_TYPE

KINDS: Final = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
FACTS: Final = "io.retouch.edit"  # label of our own assertion; C2PA wants them named like packages
# By a curve's name; c2pa-rs signs with no others.
_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Signing:
    """What an export is signed with."""

    certificates: str  # PEM file: the signer's certificate, then those that lead to a root
    key: str  # PEM file of its private key, without a password
    timestamps: str | None = None  # address of a time-stamping authority (RFC 3161), which is asked for every image


class Signer:
    """Signs image files. May be used by several threads at once."""

    def __init__(self, signing: Signing) -> None:
        """Read certificates and key, and see that they can sign.

        Raises:
            ConfigError: the extra is not installed, a file is missing or none of its kind, or they do not fit.
        """
        self._c2pa = _library()
        certificates, key = _read(signing.certificates, "certificates"), _read(signing.key, "key")
        info = self._c2pa.C2paSignerInfo(_algorithm(key, signing.key), certificates, key, signing.timestamps)
        settings = self._c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        try:
            self._context = self._c2pa.Context(settings, self._c2pa.Signer.from_info(info))
        except self._c2pa.C2paError as error:
            raise _refused(signing, error) from None
        try:
            # A key of another certificate is found now, not at the first row.
            self.signed(codec.encode(np.zeros((1, 1, 3), np.uint8)), "png", {})
        except EditError as error:
            raise _refused(signing, error) from None

    def signed(self, data: bytes, extension: str, facts: Mapping[str, str]) -> bytes:
        """The file with its signed claim; two calls never give the same bytes, since each claim has its own number.

        Args:
            data: an image file.
            extension: its kind: png, jpg or webp.
            facts: what is said of it, by name, as ``provenance.of_row`` has them.

        Raises:
            EditError: it cannot be signed.
        """
        to = io.BytesIO()
        try:
            with self._c2pa.Builder(json.dumps(_claim(facts)), self._context) as builder:
                builder.sign(KINDS[extension], io.BytesIO(data), to)
        except self._c2pa.C2paError as error:
            raise EditError(f"not signed: {error}") from None
        return to.getvalue()


def _claim(facts: Mapping[str, str]) -> dict[str, Any]:
    tool, _, version = facts.get("Software", "Retouch").partition(" ")
    created: dict[str, Any] = {
        # The claim of the source, if it has one, is not carried over: it was decoded, cropped and put together anew.
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": facts.get("retouch:editor", tool)},
    }
    if prompt := facts.get("retouch:prompt"):
        created["description"] = prompt
    said = {name.removeprefix("retouch:"): text for name, text in facts.items() if name.startswith("retouch:")}
    return {
        "claim_generator_info": [{"name": tool, **({"version": version} if version else {})}],
        "title": facts.get("retouch:key", ""),
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": FACTS, "data": said},
        ],
    }


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise ConfigError("Content Credentials need the extra c2pa: pip install 'retouch[c2pa]'") from None
    return c2pa


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--c2pa-{what} {path}: {error.strerror}") from None


def _algorithm(key: bytes, path: str) -> str:
    """C2PA's name of what a private key signs with."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise ConfigError(f"--c2pa-key {path} is no private key in PEM without a password: {error}") from None
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    raise ConfigError(f"--c2pa-key {path} is of a kind that C2PA does not know; EC P-256, RSA or Ed25519 would do")


def _refused(signing: Signing, error: Exception) -> ConfigError:
    reason = " ".join(str(error).removeprefix("not signed: ").split())
    return ConfigError(
        f"--c2pa-certificates {signing.certificates} with --c2pa-key {signing.key} sign nothing: {reason}"
    )
