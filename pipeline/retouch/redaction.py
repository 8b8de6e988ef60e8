"""Mask credentials in text that leaves the process: records, errors, tables, pages and logs.

Credentials are replaced with ``***``. Addresses that differ only in their credentials give the same text, so records
that were made with differently signed URLs of an object can be compared.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, Final, TextIO, TypeVar, cast
from urllib.parse import quote, unquote

T = TypeVar("T")

MASK: Final = "***"
SHORTEST: Final = 8  # minimum length of a variable's value: shorter ones occur in ordinary words

_VARIABLES: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_KEY",
        "GOOGLE_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
    }
)
_ENDINGS: Final = ("_SECRET", "_TOKEN", "_PASSWORD", "_SECRET_KEY", "_ACCESS_KEY", "_ACCOUNT_KEY", "_API_KEY")

# scheme://user:password@; the second form allows slashes in a password, as in AWS secrets, but must not match a port.
# All repetitions are bounded, so that no text takes long to match.
_USERINFO: Final = re.compile(
    r"""\b([a-z][a-z0-9+.-]{0,20})://"""
    r"""(?:([^\s/?#"'<>]{1,1024})|([^\s/?#"'<>:@\[]{1,256}:(?!\d{1,5}[/?#])[^\s"'<>@]{1,256}))@""",
    re.IGNORECASE,
)
_MAX_QUOTED: Final = 32  # names and passwords of a text that are also masked in the rest of it
# Schemes whose userinfo is not secret without a password: an Azure container or a login name.
_NAMING: Final = frozenset({"abfs", "abfss", "wasb", "wasbs", "hdfs", "sftp", "ssh", "smb"})

_QUERY: Final = re.compile(r"""\?([^\s"'<>\\#]*[^\s"'<>\\#:,.;)\]}])""")
_SIGNING: Final = re.compile(  # query parameters that are a credential, or occur only together with one
    r"x-amz-.*|x-goog-.*|x-oss-.*|awsaccesskeyid|googleaccessid|signature|sig|auth|authorization|credentials?"
    r"|.*token|.*password|passwd|.*secret|.*api[-_]?key",
    re.IGNORECASE,
)
_SIGNED: Final = frozenset(  # query parameters that belong to a signature if the query has one
    {
        *("expires", "policy", "key-pair-id"),  # CloudFront, and older signatures of Amazon and Google
        *("se", "sp", "sv", "sr", "st", "ss", "srt", "spr", "sip", "ske", "sks", "skt", "skv", "skoid", "sktid"),
    }
)
_SIGNATURES: Final = frozenset({"signature", "sig", "x-amz-signature", "x-goog-signature"})

_SEPARATOR: Final = r"""(["']?\s*(?:=|:|%3D)\s*["']?)"""
_NAMED: Final = re.compile(  # outside of an address: a header, a library's settings, a quoted query
    r"((?:\b|%3F|%26)(?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid"
    r"|aws_access_key_id|aws_secret_access_key|aws_session_token|access_token|client_secret"
    rf"|accountkey|sharedaccess(?:key|signature))){_SEPARATOR}(?:[^\s\"'&,;<>\\%]|%(?!26))+",
    re.IGNORECASE,
)
_AUTHORIZATION: Final = re.compile(
    rf"\b((?:proxy-)?authorization){_SEPARATOR}(?:(?:basic|bearer|digest|token|aws|aws4-hmac-sha256|sharedkey|"
    r"goog4-[\w-]+)\s+)?[^\s\"'<>]+",
    re.IGNORECASE,
)
_IN_A_HEADER: Final = re.compile(r"""\b(Credential|Signature)=[^\s,;"'&<>\\]+""")
_BEARER: Final = re.compile(r"\b(bearer)\s+[\w.~+/=-]{16,}", re.IGNORECASE)
_SHAPES: Final = re.compile(  # Amazon key ids; tokens of Hugging Face, Google and GitHub; JSON web tokens
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|AIza[\w-]{35}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|eyJ[\w-]{8,256}\.[\w-]{8,4096}\.[\w-]{1,1024})"
)


def redacted(text: str) -> str:
    """Return the text with credentials masked.

    Masked are names and passwords in addresses (``scheme://user:password@host``), the signature of an address
    (``X-Amz-Signature``, ``sig``, ``token``, ... and the parameters that belong to it), ``Authorization`` headers, keys
    and tokens with a recognizable form, and the values of well-known secret environment variables and of all variables
    whose names end in ``_SECRET``, ``_TOKEN``, ``_PASSWORD`` or a kind of ``_KEY``.
    """
    secrets = _environment_pattern(tuple(_secret_values()))
    if secrets is not None:
        text = secrets.sub(MASK, text)
    if "://" in text:
        text = _without_userinfo(text)
    small = text.lower()
    for signs, pattern, replacement in _RULES:
        if any(sign in small for sign in signs):
            text = pattern.sub(replacement, text)
    return text


def redacted_all(value: T) -> T:
    """Return plain data (mappings, lists, strings, numbers) with all strings redacted, including mapping keys."""
    found: Any = value
    if isinstance(value, str):
        found = redacted(value)
    elif isinstance(value, Mapping):
        found = {redacted_all(name): redacted_all(inner) for name, inner in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(redacted_all(inner) for inner in value)
    return cast(T, found)


@contextmanager
def redacted_streams() -> Iterator[None]:
    """Redact everything that is printed to standard output and error within this context."""
    import sys

    out, err = cast(TextIO, _Redacting(sys.stdout)), cast(TextIO, _Redacting(sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Redacting:
    """A text stream that redacts each write and forwards everything else to the wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text) if isinstance(text, str) else text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _secret_values() -> Iterator[str]:
    for name in os.environ:
        if (name in _VARIABLES or name.upper().endswith(_ENDINGS)) and len(value := os.environ[name]) >= SHORTEST:
            yield value


@functools.lru_cache(maxsize=8)
def _environment_pattern(values: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a pattern of the values, plain and URL-quoted; None if there are none."""
    forms = {form for value in values for form in (value, quote(value, safe=""), quote(value))}
    if not forms:
        return None
    return re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))


def _without_userinfo(text: str) -> str:
    """Mask names and passwords in addresses, and the same ones elsewhere in the text, where a library quotes them."""
    hidden: set[str] = set()

    def masked(found: re.Match[str]) -> str:
        scheme, userinfo = found[1], found[2] or found[3]
        if ":" not in userinfo and scheme.lower() in _NAMING:
            return found[0]
        # Libraries take the part before the first slash for the host or bucket, and quote it.
        for part in (userinfo, userinfo.partition(":")[2], userinfo.partition("/")[0]):
            hidden.update(form for form in (part, unquote(part)) if len(form) >= SHORTEST)
        return f"{scheme}://{MASK}@"

    while (again := _USERINFO.sub(masked, text)) != text:  # a mask may complete another address, as in s3://a:/@b@c
        text = again
    for part in sorted(hidden, key=len, reverse=True)[:_MAX_QUOTED]:
        text = text.replace(part, MASK)
    return text


def _unsigned(found: re.Match[str]) -> str:
    """Return a query without its signature: adjacent secret parameters become one mask."""
    parts = re.split(r"(&amp;|&)", found[1])  # parameters, with the separators between them
    names = [part.partition("=")[0].lower() for part in parts[::2]]
    is_signed = not _SIGNATURES.isdisjoint(names)
    kept = [MASK] if _is_secret(parts[0], names[0], is_signed) else parts[:1]
    for sign, part, name in zip(parts[1::2], parts[2::2], names[1:], strict=True):
        if not _is_secret(part, name, is_signed):
            kept += [sign, part]
        elif kept[-1] != MASK:
            kept += [sign, MASK]
    return f"?{''.join(kept)}"


def _is_secret(part: str, name: str, is_signed: bool) -> bool:
    return "=" in part and bool(_SIGNING.fullmatch(name) or (is_signed and name in _SIGNED))


# A pattern is tried only if the text contains one of its signs: most texts have none, and there may be millions.
_RULES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (("?",), _QUERY, _unsigned),
    (("authorization",), _AUTHORIZATION, rf"\1\2{MASK}"),
    (
        ("x-amz-", "x-goog-", "awsaccess", "aws_", "access_token", "client_secret", "accountkey", "sharedaccess"),
        _NAMED,
        rf"\1\2{MASK}",
    ),
    (("credential=", "signature="), _IN_A_HEADER, rf"\1={MASK}"),
    (("bearer",), _BEARER, rf"\1 {MASK}"),
    (("akia", "asia", "hf_", "aiza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "eyj"), _SHAPES, MASK),
)
