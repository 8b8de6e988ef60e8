"""Credentials do not leave the process in any text, and no other text is changed."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from retouch.errors import RetouchError
from retouch.redaction import MASK, redacted, redacted_all, redacted_streams

SECRET = "wJalrXUtnFEMI"
V4 = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101&X-Amz-Date=1&X-Amz-Signature={SECRET}"


@pytest.fixture(autouse=True)
def without_secrets_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the test is the test's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"s3://AKID:{SECRET}@bucket/a.png", "s3://***@bucket/a.png"),
        (f"s3://AKID:a/b+{SECRET}/c@bucket/img@2x.png", "s3://***@bucket/img@2x.png"),
        (f"no object at https://me:p@{SECRET}@host/a.png", "no object at https://***@host/a.png"),
        (f"https://{SECRET}@host/a.png", "https://***@host/a.png"),
        (f"s3://AKID:{SECRET}/a@b/x: no bucket AKID:{SECRET}", "s3://***@b/x: no bucket ***"),
        (f"s3://AKID:{SECRET}@b/x: no bucket AKID:{SECRET}@b, {SECRET}", "s3://***@b/x: no bucket ***@b, ***"),
        (f"abfs://me:{SECRET}@account/a", "abfs://***@account/a"),
        (f"https://host/a.png?versionId=3&{V4}", "https://host/a.png?versionId=3&***"),
        (f"https://host/a.png?{V4}: HTTPError 403", "https://host/a.png?***: HTTPError 403"),
        (f"https://host/a?X-Goog-Credential=x&X-Goog-Signature={SECRET}", "https://host/a?***"),
        (f"https://host/a?AWSAccessKeyId=AK&Signature={SECRET}%3D&Expires=1", "https://host/a?***"),
        (f"https://h/a?sv=2024&ss=b&se=2026&sp=r&sig={SECRET}&comp=list", "https://h/a?***&comp=list"),
        (f"https://h/a?Policy=x&Key-Pair-Id=y&Signature={SECRET}", "https://h/a?***"),
        (f"https://h/a?q=1&amp;token={SECRET}&amp;w=2", "https://h/a?q=1&amp;***&amp;w=2"),
        (f"https://h/a?access_token={SECRET}#part", "https://h/a?***#part"),
        (f"to=https%3A%2F%2Fh%3FX-Amz-Signature%3D{SECRET}%26q", "to=https%3A%2F%2Fh%3FX-Amz-Signature%3D***%26q"),
        (f"Authorization: Bearer {SECRET}, retry", "Authorization: *** retry"),
        (f"{{'Authorization': 'Basic {SECRET}=='}}", "{'Authorization': '***'}"),
        (f"AWS4-HMAC-SHA256 Credential=AK/1/s3, Signature={SECRET}", "AWS4-HMAC-SHA256 Credential=***, Signature=***"),
        (f"aws_secret_access_key = '{SECRET}'", "aws_secret_access_key = '***'"),
        (f"AccountName=me;AccountKey={SECRET}==;EndpointSuffix=x", "AccountName=me;AccountKey=***;EndpointSuffix=x"),
        ("key AKIAIOSFODNN7EXAMPLE is refused", "key *** is refused"),
        (f"hf_{SECRET}{SECRET} expired", "*** expired"),
    ],
)
def test_what_would_let_somebody_in_is_left_out(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:9000/bucket/img@2x.png",
        "http://[::1]:9000/a@b.png",
        "hf://owner/name@v2/unet.bin",
        "abfs://container@account.dfs.core.windows.net/a.png",
        "sftp://me@host/a.png",
        "file:///home/a:b@c.png",
        f"s3://models/unet.pt#sha256={'0' * 64}",
        "https://host/a.png?st=1&se=2&size=640&expires=never",
        "https://host/?q=a&amp;b",
        "what is this token? a bearer of bad news",
        "params: max_tokens=77, key=row-1",
        "me@example.org",
        "",
    ],
)
def test_what_is_no_credential_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_an_address_signed_anew_gives_the_same_text() -> None:
    older = f"https://h/a.png?AWSAccessKeyId=AK&Signature={SECRET}&Expires=1"
    newer = f"https://h/a.png?{V4}&X-Amz-Security-Token=abc"
    assert redacted(older) == redacted(newer) == "https://h/a.png?***"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_SESSION_TOKEN", True),
        ("HF_TOKEN", True),
        ("AZURE_STORAGE_KEY", True),
        ("GOOGLE_API_KEY", True),
        ("MINE_PASSWORD", True),
        ("MINE_SECRET", True),
        ("mine_secret_key", True),
        ("MINE", False),
        ("TOKENS", False),
    ],
)
def test_values_of_secret_variables_are_left_out_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, name: str, hidden: bool
) -> None:
    value = "ab/cd+ef=gh"
    monkeypatch.setenv(name, value)
    for text in (f"say {value} here", "a%2Fcab%2Fcd%2Bef%3Dgh", "path/ab/cd%2Bef%3Dgh"):
        assert (MASK in redacted(text)) == hidden
        assert (redacted(text) == text) != hidden


def test_a_short_value_is_not_looked_for_as_it_is_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_PASSWORD", "test")
    assert redacted("a test of tests") == "a test of tests"


def test_plain_data_is_redacted_in_all_its_texts_and_keeps_its_form() -> None:
    url, left = f"https://h/a?token={SECRET}", "https://h/a?***"
    data = {url: [url, 1, None, {"deep": (url, 2.5)}], "plain": True}
    assert redacted_all(data) == {left: [left, 1, None, {"deep": (left, 2.5)}], "plain": True}
    assert SECRET not in json.dumps(redacted_all(data))


def test_every_error_of_ours_is_redacted_in_text_and_arguments() -> None:
    error = RetouchError(f"no object at https://u:{SECRET}@h/a")
    assert str(error) == "no object at https://***@h/a"
    assert SECRET not in repr(error)
    assert str(type(error)(*error.args)) == str(error)


def test_what_is_printed_within_is_redacted_and_nothing_after(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with redacted_streams():
        print(f"s3://a:{SECRET}@b")
        sys.stderr.writelines([f"s3://a:{SECRET}@b", "\n"])
        assert not sys.stdout.isatty()
    print("s3://a:plain@b")
    assert out.getvalue() == "s3://***@b\ns3://a:plain@b\n"
    assert err.getvalue() == "s3://***@b\n"


pieces = st.sampled_from(["://", "@", ":", "/", "?", "&", "=", "token", "sig", "s3", "a", " ", "%3D", "'", "eyJ", "."])


@settings(max_examples=300, deadline=None)
@given(text=st.lists(pieces, max_size=30).map("".join))
@example("s3://***@***@a")
@example("token://&://@@")
@example("token://&://@b@")
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["s3://a:b", "a.a+", "?a=", "eyJaaaaaaaa-", "://@", "authorization:", "x-amz-"])
def test_no_text_however_it_is_made_keeps_a_process_busy(piece: str) -> None:
    """A megabyte: in the square of its length it would take days."""
    assert len(redacted(piece * (1_000_000 // len(piece)))) > 0
