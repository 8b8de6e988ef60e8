"""Content Credentials (C2PA) for exported images: a signed claim of what made them.

The claim states with IPTC's terms that a trained model composed the image, with which editor and prompt, and is bound
to the file's bytes: a changed pixel invalidates it. Signing is done by c2pa-rs, installed by the extra ``c2pa``.
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
FACTS: Final = "io.retouch.edit"  # label of our assertion; C2PA names them like packages
# By curve; c2pa-rs supports no others.
_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Signing:
    """The certificate and key that an export is signed with."""

    certificates: str  # PEM file: the signer's certificate, then its chain
    key: str  # PEM file of the private key, without a password
    timestamps: str | None = None  # URL of a time-stamping authority (RFC 3161), called for every image


class Signer:
    """Signs image files; thread-safe."""

    def __init__(self, signing: Signing) -> None:
        """Load certificate and key, and check that they can sign.

        Raises:
            ConfigError: the extra is not installed, a file is missing or invalid, or key and certificate do not match.
        """
        self._c2pa = _library()
        certificates, key = _read(signing.certificates, "certificates"), _read(signing.key, "key")
        info = self._c2pa.C2paSignerInfo(_algorithm(key, signing.key), certificates, key, signing.timestamps)
        settings = self._c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        try:
            self._context = self._c2pa.Context(settings, self._c2pa.Signer.from_info(info))
        except self._c2pa.C2paError as error:
            raise _cannot_sign(signing, error) from None
        try:
            # So that a key of another certificate fails here and not at the first row.
            self.sign(codec.encode(np.zeros((1, 1, 3), np.uint8)), "png", {})
        except EditError as error:
            raise _cannot_sign(signing, error) from None

    def sign(self, data: bytes, extension: str, facts: Mapping[str, str]) -> bytes:
        """Return the file with a signed claim; the bytes differ from call to call, since each claim has its own ID.

        Args:
            data: an image file.
            extension: its kind: png, jpg or webp.
            facts: from ``provenance.describe_row``.

        Raises:
            EditError: it cannot be signed.
        """
        out = io.BytesIO()
        try:
            with self._c2pa.Builder(json.dumps(_claim(facts)), self._context) as builder:
                builder.sign(KINDS[extension], io.BytesIO(data), out)
        except self._c2pa.C2paError as error:
            raise EditError(f"not signed: {error}") from None
        return out.getvalue()


def _claim(facts: Mapping[str, str]) -> dict[str, Any]:
    tool, _, version = facts.get("Software", "Retouch").partition(" ")
    created: dict[str, Any] = {
        # A claim of the source is not carried over: its pixels were decoded, cropped and composed again.
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": facts.get("retouch:editor", tool)},
    }
    if prompt := facts.get("retouch:prompt"):
        created["description"] = prompt
    own = {name.removeprefix("retouch:"): text for name, text in facts.items() if name.startswith("retouch:")}
    return {
        "claim_generator_info": [{"name": tool, **({"version": version} if version else {})}],
        "title": facts.get("retouch:key", ""),
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": FACTS, "data": own},
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
    """Return C2PA's name for a private key's algorithm."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise ConfigError(f"--c2pa-key {path}: not a PEM private key without a password: {error}") from None
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    raise ConfigError(f"--c2pa-key {path}: C2PA does not support this kind of key; use EC P-256, RSA or Ed25519")


def _cannot_sign(signing: Signing, error: Exception) -> ConfigError:
    reason = " ".join(str(error).removeprefix("not signed: ").split())
    return ConfigError(f"--c2pa-certificates {signing.certificates} and --c2pa-key {signing.key} cannot sign: {reason}")
