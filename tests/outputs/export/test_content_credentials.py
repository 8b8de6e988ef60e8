"""Signed images are read back by C2PA's own library: valid for the right root, broken by one changed pixel."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from retouch.cli.app import main
from retouch.errors import ConfigError, EditError
from retouch.imaging import codec
from retouch.outputs.export.content_credentials import FACTS, Signer, Signing
from retouch.outputs.export.provenance import SOURCE_TYPE, describe_row, stamp

from tests.helpers.datasets import picture
from tests.outputs.export.outputs import KEYS, edited, finished
from tests.outputs.export.test_provenance import RECORD, ROW

KEYS_OF: dict[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def _name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def _certificate(subject: str, key: Any, issuer: str, signing: Any, *, root: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"], False
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, decipher_only=False, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if not root:
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return built.sign(signing, hashes.SHA256())


def pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def credentials(folder: Path, kind: str = "p256") -> tuple[Signing, str]:
    """Certificate and key of an exporter, and the root that they lead to."""
    folder.mkdir(exist_ok=True)
    above, key = ec.generate_private_key(ec.SECP256R1()), KEYS_OF[kind]()
    root = _certificate("Root", above, "Root", above, root=True)
    own = _certificate("Exporter", key, "Root", above, root=False)
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (own, root))
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(pem(key))
    anchor = root.public_bytes(serialization.Encoding.PEM).decode()
    return Signing(str(folder / "chain.pem"), str(folder / "key.pem")), anchor


def read(data: bytes, kind: str, anchor: str | None = None) -> tuple[str, dict[str, Any]]:
    """How C2PA's reader finds a file, and the claim in it."""
    trust = {"trust": {"trust_anchors": anchor}, "verify": {"verify_trust": True}} if anchor else {}
    with (
        c2pa.Context(c2pa.Settings.from_dict(trust)) as context,
        c2pa.Reader(kind, io.BytesIO(data), context=context) as found,
    ):
        return str(found.get_validation_state()), found.get_active_manifest()


@pytest.mark.parametrize("kind", list(KEYS_OF))
def test_every_kind_of_key_signs_what_a_reader_trusts_by_the_root(tmp_path: Path, kind: str) -> None:
    signing, anchor = credentials(tmp_path, kind)
    data = Signer(signing).sign(codec.encode(picture(1)), "png", describe_row(RECORD, ROW))
    assert read(data, "image/png", anchor)[0] == "Trusted"
    _, other = credentials(tmp_path / "other")
    assert read(data, "image/png", other)[0] != "Trusted"


@pytest.mark.parametrize("kind", list(codec.EXTENSIONS))
def test_every_format_keeps_its_pixels_and_says_who_made_it_and_how(tmp_path: Path, kind: str) -> None:
    signing, _ = credentials(tmp_path)
    extension, facts = codec.EXTENSIONS[kind], describe_row(RECORD, ROW)
    before = stamp(codec.encode(picture(1), kind), facts)
    after = Signer(signing).sign(before, extension, facts)
    assert np.array_equal(codec.decode_image(after).pixels, codec.decode_image(before).pixels)
    state, claim = read(after, f"image/{'jpeg' if extension == 'jpg' else extension}")
    assert state == "Valid"
    said = {one["label"]: one["data"] for one in claim["assertions"]}
    action = said["c2pa.actions.v2"]["actions"][0]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", SOURCE_TYPE)
    assert action["softwareAgent"]["name"] == "blended_diffusion 3"
    assert said[FACTS]["prompt"] == "a red circle"
    assert json.loads(said[FACTS]["weights_sha256"]) == {"unet": "ab" * 32}
    assert claim["claim_generator_info"][0]["name"] == "Retouch"


def test_a_pixel_changed_afterwards_breaks_the_claim(tmp_path: Path) -> None:
    signing, _ = credentials(tmp_path)
    data = bytearray(Signer(signing).sign(codec.encode(picture(1), "jpeg"), "jpg", {}))
    data[-20] ^= 1
    assert read(bytes(data), "image/jpeg")[0] == "Invalid"


def test_threads_may_share_a_signer(tmp_path: Path) -> None:
    signer = Signer(credentials(tmp_path)[0])
    with ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda n: signer.sign(codec.encode(picture(n)), "png", {"retouch:key": str(n)}), range(24))
        )
    for n, data in enumerate(made):
        state, claim = read(data, "image/png")
        assert (state, claim["title"]) == ("Valid", str(n))
        assert np.array_equal(codec.decode_image(data).pixels, picture(n))


def test_what_is_no_image_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(EditError, match="not signed"):
        Signer(credentials(tmp_path)[0]).sign(b"nothing", "png", {})


def test_a_key_of_another_certificate_is_found_before_the_first_row(tmp_path: Path) -> None:
    ours, other = credentials(tmp_path / "a")[0], credentials(tmp_path / "b")[0]
    with pytest.raises(ConfigError, match="cannot sign"):
        Signer(Signing(ours.certificates, other.key))


def test_files_that_cannot_sign_are_named(tmp_path: Path) -> None:
    signing, _ = credentials(tmp_path)
    with pytest.raises(ConfigError, match=r"--c2pa-key .*none\.pem: No such file"):
        Signer(Signing(signing.certificates, str(tmp_path / "none.pem")))
    with pytest.raises(ConfigError, match="not a PEM private key"):
        Signer(Signing(signing.certificates, signing.certificates))
    (tmp_path / "k1.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256K1())))
    with pytest.raises(ConfigError, match="use EC P-256, RSA or Ed25519"):
        Signer(Signing(signing.certificates, str(tmp_path / "k1.pem")))


def test_the_command_signs_every_edit_and_leaves_its_pixels(tmp_path: Path) -> None:
    signing, anchor = credentials(tmp_path / "pki")
    output = finished(tmp_path, 3)
    options = ["--c2pa-certificates", signing.certificates, "--c2pa-key", signing.key]
    with pytest.raises(SystemExit) as end:
        main(["export", output, str(tmp_path / "set"), "--format", "folder", *options])
    assert end.value.code == 0
    found = {}
    for file in (tmp_path / "set/images").rglob("*.png"):
        state, claim = read(file.read_bytes(), "image/png", anchor)
        assert state == "Trusted"
        found[claim["title"]] = codec.decode_image(file.read_bytes()).pixels
    expected = edited(output)
    assert sorted(found) == sorted(KEYS[:3]) == sorted(expected)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert json.loads((tmp_path / "set/export.json").read_text())["content_credentials"] is True
    assert "Content Credentials" in (tmp_path / "set/README.md").read_text()


def test_a_certificate_without_its_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", "runs/none", str(tmp_path / "set"), "--format", "folder", "--c2pa-certificates", "chain.pem"])
    assert end.value.code == 2
    assert "needed together" in capsys.readouterr().err
