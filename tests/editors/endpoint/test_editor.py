"""Rows through a real HTTP server that answers well, badly, late or not at all."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina
from retouch.editors.endpoint.client import LONGEST_RETRY_AFTER, _RetryableError, retry_after, wait_of
from retouch.editors.endpoint.editor import Endpoint
from retouch.editors.endpoint.params import Params
from retouch.errors import ConfigError, EditError, Filtered, Unavailable
from retouch.execution.edit import run
from retouch.outputs import results
from retouch.outputs.verify import verify_output
from retouch.plugins import Editor
from retouch.schema import Batch
from retouch.testing import check_editor
from rich.console import Console

from tests.helpers.datasets import painter_job, png, write_dataset
from tests.helpers.image_server import (
    Answer,
    Form,
    ImageServer,
    image_answer,
    image_server,
    json_answer,
    negative,
    refusal,
)

pytestmark = pytest.mark.slow

SIZE = 32
KEY = "sk-a-secret-of-the-test"
PROMPTS = ("a cat", "two red apples", "blue", "a dog")


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    """Retry at once, three times at most."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as found:
        yield found


def load(server: ImageServer, **params: Any) -> Endpoint:
    return Endpoint.load(Params(**{"url": server.url, "model": "m", "size": SIZE, **params}), {}, "cpu")


def batch(count: int = 4, **changes: Any) -> Batch:
    rng = np.random.default_rng(0)
    mask = np.zeros((count, SIZE, SIZE), bool)
    for i in range(count):
        mask[i, i : i + 10, 4:20] = True
    made = Batch(
        image=rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
        mask=mask,
        prompt=PROMPTS[:count],
        seed=list(range(count)),
    )
    return replace(made, **changes)


def only_error(editor: Endpoint, given: Batch | None = None) -> Any:
    (result,) = editor.edit_batch(given or batch(1))
    return result.error


# -- what is sent --


def test_it_keeps_the_contract_of_editors(server: ImageServer) -> None:
    assert isinstance(load(server), Editor)
    assert load(server).image_size == SIZE

    def answer(form: Form) -> Answer:
        return negative(form) if form.prompt else refusal(400)

    server.answer = answer
    check_editor(Endpoint, {"url": server.url, "model": "m", "size": SIZE}, {})


def test_a_row_is_one_form_with_its_image_mask_and_prompt(server: ImageServer) -> None:
    given = batch(2)
    found = load(server, concurrency=1).edit_batch(given)
    for place, form in enumerate(server.forms):
        np.testing.assert_array_equal(form.array("image"), given.image[place])
        mask = form.array("mask")
        assert mask.shape == (SIZE, SIZE, 4)
        np.testing.assert_array_equal(mask[..., 3] == 0, given.mask[place])
        texts = {name: value for name, value in form.fields.items() if name not in ("image", "mask")}
        assert texts == {"prompt": PROMPTS[place].encode(), "model": b"m", "n": b"1", "size": b"32x32"}
        assert "Authorization" not in form.headers
    for place, result in enumerate(found):
        np.testing.assert_array_equal(result.image, 255 - given.image[place])
        assert (result.error, result.metrics) == (None, {"reproducible": False})


def test_other_servers_conventions_are_params(server: ImageServer) -> None:
    given = batch(1, seed=[2**62 + 5])
    fields = {"num_inference_steps": 28, "guidance_scale": 3.5, "fast": True}
    style: dict[str, Any] = {"mask": "white", "mask_field": "mask_image", "response_format": "b64_json"}
    load(server, seed=True, fields=fields, **style).edit_batch(given)
    (form,) = server.forms
    np.testing.assert_array_equal(form.array("mask_image") == 255, given.mask[0])
    assert "mask" not in form.fields
    expected = {"seed": b"5", "response_format": b"b64_json", "num_inference_steps": b"28", "guidance_scale": b"3.5"}
    assert {**expected, "fast": b"true"}.items() <= dict(form.fields).items()


def test_a_mask_that_says_nothing_or_is_not_wanted_is_not_sent(server: ImageServer) -> None:
    load(server).edit_batch(batch(1, mask=np.ones((1, SIZE, SIZE), bool)))
    load(server, mask="none").edit_batch(batch(1))
    assert [set(form.fields) & {"mask"} for form in server.forms] == [set(), set()]


def test_padding_is_not_sent(server: ImageServer) -> None:
    padded = [0, 1, 1, 1]
    given = batch()
    given = replace(
        given, image=given.image[padded], mask=given.mask[padded], prompt=[PROMPTS[i] for i in padded], seed=padded
    )
    found = load(server).edit_batch(given)
    assert sorted(form.prompt for form in server.forms) == sorted(PROMPTS[:2])
    np.testing.assert_array_equal(np.stack([one.image for one in found]), 255 - given.image)


def test_candidates_of_a_row_are_requests_of_their_own(server: ImageServer) -> None:
    same = batch(1)
    given = replace(same, image=same.image.repeat(2, 0), mask=same.mask.repeat(2, 0), prompt=["a cat"] * 2, seed=[1, 2])
    load(server).edit_batch(given)
    assert len(server.forms) == 2


def test_an_empty_prompt_fails_its_row_alone_and_is_not_sent(server: ImageServer) -> None:
    empty, full = load(server).edit_batch(batch(2, prompt=[" ", "a cat"]))
    assert str(empty.error) == "the prompt is empty; the server needs one"
    assert full.error is None
    assert [form.prompt for form in server.forms] == ["a cat"]


def test_requests_run_together_up_to_the_limit(server: ImageServer) -> None:
    pair = threading.Barrier(2, timeout=60)  # each answer waits for a second request
    lock, now, most = threading.Lock(), [0], [0]

    def answer(form: Form) -> Answer:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        pair.wait()
        with lock:
            now[0] -= 1
        return negative(form)

    server.answer = answer
    assert [one.error for one in load(server, concurrency=2).edit_batch(batch(4))] == [None] * 4
    assert most == [2]


def test_it_works_where_a_loop_is_running_as_in_a_notebook(server: ImageServer) -> None:
    async def cell() -> Any:
        return load(server).edit_batch(batch(1))

    (result,) = asyncio.run(cell())
    assert result.error is None


# -- answers --


def test_an_answer_may_be_an_address_which_does_not_get_the_key(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    pixels = batch(1).image[0][::-1]
    server.files["/image.png"] = png(pixels)
    address = server.url.removesuffix("/v1") + "/image.png"
    server.answer = lambda form: json_answer({"data": [{"url": address}]})
    (result,) = load(server, api_key_env="TEST_ENDPOINT_KEY").edit_batch(batch(1))
    np.testing.assert_array_equal(result.image, pixels)
    assert server.forms[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in server.downloads[0]
    del server.files["/image.png"]
    assert "the image's address: status 404" in str(only_error(load(server)))


def test_a_row_that_breaks_the_server_fails_alone_and_does_not_stop_the_run(server: ImageServer) -> None:
    server.answer = lambda form: refusal(500, "CUDA error")
    (result,) = load(server).edit_batch(batch(1))
    assert type(result.error) is EditError
    assert "status 500: CUDA error, at every attempt" in str(result.error)


def test_a_negative_prompt_is_a_field_if_the_row_has_one(server: ImageServer) -> None:
    load(server).edit_batch(replace(batch(2), negative_prompt=["rain", ""]))
    assert sorted(form.fields.get("negative_prompt", b"none") for form in server.forms) == [b"none", b"rain"]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer(200, b"<html>"), "is no JSON object with data"),
        (Answer(200, b""), "is no JSON object with data"),
        (json_answer([1]), "is no JSON object with data"),
        (json_answer({"data": []}), "has no image, neither b64_json nor url"),
        (json_answer({"data": [{"url": "file:///etc/passwd"}]}), "has no image, neither b64_json nor url"),
        (json_answer({"data": [{"b64_json": "?"}]}), "is no base64"),
        (json_answer({"data": [{"b64_json": base64.b64encode(b"GIF89a").decode()}]}), "the server's image is"),
        (image_answer(np.zeros((16, 32, 3), np.uint8)), "the server's image is 32x16, asked for 32x32; resize: true"),
        (refusal(400, "unknown field seed"), r"status 400: unknown field seed"),
        (refusal(413, "too large"), r"status 413: too large"),
        (json_answer({"detail": [{"loc": ["size"], "msg": "bad"}]}, 422), "status 422: .*'msg': 'bad'"),
    ],
)
def test_an_answer_that_is_no_edit_fails_its_row_with_the_reason(
    server: ImageServer, answer: Answer, line: str
) -> None:
    server.answer = lambda form: answer if form.prompt == "a cat" else negative(form)
    bad, good = load(server).edit_batch(batch(2))
    assert type(bad.error) is EditError
    assert good.error is None
    with pytest.raises(EditError, match=line):
        raise bad.error
    assert "\n" not in str(bad.error)
    assert bad.image.shape == (SIZE, SIZE, 3)
    assert len(server.forms) == 2  # another attempt would not help


def test_an_answer_of_another_size_is_scaled_where_the_job_allows_it(server: ImageServer) -> None:
    server.answer = lambda form: image_answer(np.full((48, 64, 3), 77, np.uint8))
    (result,) = load(server, resize=True).edit_batch(batch(1))
    assert result.error is None
    np.testing.assert_array_equal(result.image, np.full((SIZE, SIZE, 3), 77, np.uint8))


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "rejected by the safety system", "moderation_blocked"),
        refusal(400, "rejected", "content_policy_violation"),
        json_answer({"data": [{"respect_moderation": False, "b64_json": None}]}),
    ],
)
def test_a_row_that_moderation_refuses_is_filtered(server: ImageServer, answer: Answer) -> None:
    server.answer = lambda form: answer if form.prompt == "a cat" else negative(form)
    bad, good = load(server).edit_batch(batch(2))
    assert type(bad.error) is Filtered
    assert good.error is None


# -- attempts --


@pytest.mark.parametrize(
    "failure",
    [
        refusal(429, "slow down", Retry_After="7"),
        refusal(503, "starting"),
        refusal(500, "oh"),
        Answer(None),
        Answer(200, b"", {"Content-Length": "100"}),  # the connection is closed within the answer
    ],
)
def test_a_failure_that_may_pass_is_tried_again(server: ImageServer, failure: Answer) -> None:
    server.answer = lambda form: failure if len(server.forms) < 3 else negative(form)
    assert only_error(load(server)) is None
    assert len(server.forms) == 3


def test_the_servers_wait_is_kept_unless_it_is_an_absence() -> None:
    now = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"Retry-After": "0.5"}) == 0.5
    assert retry_after({"Retry-After": "Mon, 30 Nov 2026 12:01:30 GMT"}, now) == 90.0
    assert retry_after({"Retry-After": "Mon, 30 Nov 2026 11:00:00 GMT"}, now) == 0.0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None
    assert wait_of(_RetryableError("x", 7.0)) == 7.0
    assert wait_of(_RetryableError("x")) is True
    assert wait_of(_RetryableError("x", LONGEST_RETRY_AFTER + 1)) is False
    assert wait_of(EditError("x")) is False


def test_a_server_that_stays_down_is_no_rows_fault(server: ImageServer) -> None:
    server.answer = lambda form: refusal(503, "overloaded")
    with pytest.raises(Unavailable, match=r"status 503: overloaded; resume when the server is well"):
        load(server, concurrency=1).edit_batch(batch(4))
    assert len(server.forms) == 3  # the other rows are not tried


def test_a_server_that_is_not_there_is_no_rows_fault() -> None:
    with image_server() as gone:
        editor = load(gone)
    with pytest.raises(Unavailable, match=r"ClientConnectorError.*resume when the server is well"):
        editor.edit_batch(batch(2))


def test_a_server_that_hangs_is_left_after_the_timeout(server: ImageServer) -> None:
    def answer(form: Form) -> Answer:
        server.released.wait()
        return Answer(None)

    server.answer = answer
    with pytest.raises(Unavailable, match=r"no response within 0\.2 s"):
        load(server, timeout_seconds=0.2).edit_batch(batch(1))


def test_a_row_that_breaks_the_server_again_and_again_fails_where_others_are_answered(server: ImageServer) -> None:
    answered = threading.Event()

    def answer(form: Form) -> Answer:
        if form.prompt == "a cat":
            answered.wait(timeout=60)
            return refusal(500, "CUDA error")
        answered.set()
        return negative(form)

    server.answer = answer
    bad, good = load(server).edit_batch(batch(2))
    assert good.error is None
    assert type(bad.error) is EditError
    assert "status 500: CUDA error, while the server edited other rows" in str(bad.error)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}."), "status 401: .*; look at the variable TEST_ENDPOINT_KEY"),
        (refusal(403, "not allowed"), "look at the variable TEST_ENDPOINT_KEY"),
        (refusal(404, "no model m"), "status 404: no model m; look at url"),
        (Answer(302, b"", {"Location": "https://elsewhere"}), "status 302: no message; look at url"),
        (refusal(429, "You exceeded your quota", "insufficient_quota"), "insufficient_quota"),
        (refusal(429, "come tomorrow", Retry_After="86400"), "status 429: come tomorrow; resume"),
    ],
)
def test_what_no_row_can_help_stops_the_run_at_once_and_keeps_the_key(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch, answer: Answer, line: str
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    server.answer = lambda form: answer
    with pytest.raises(Unavailable, match=line) as caught:
        load(server, api_key_env="TEST_ENDPOINT_KEY", concurrency=1).edit_batch(batch(4))
    assert len(server.forms) == 1
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


# -- loading --


def test_a_key_that_is_not_set_is_an_error_before_anything_is_sent(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_ENDPOINT_KEY", raising=False)
    with pytest.raises(ConfigError, match="api_key_env names TEST_ENDPOINT_KEY, which is not set here"):
        load(server, api_key_env="TEST_ENDPOINT_KEY")
    assert server.forms == []


def test_a_rows_own_params_reach_the_form_and_the_jobs_are_settled(server: ImageServer) -> None:
    editor = load(server)
    editor.edit_batch(batch(1, params={"model": "other", "fields": {"strength": 0.5}}))
    assert (server.forms[0].fields["model"], server.forms[0].fields["strength"]) == (b"other", b"0.5")
    for name, value in {"url": "http://other/v1", "size": 64, "concurrency": 9}.items():
        with pytest.raises(ConfigError, match=f"{name} is settled when the editor is loaded"):
            editor.edit_batch(batch(1, params={name: value}))


def test_it_needs_no_torch() -> None:
    script = "import sys\nimport retouch.editors.endpoint.editor\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- a whole job --


def endpoint_job(folder: Path, manifest: Path, url: str, **params: Any) -> Any:
    params = {"url": url, "model": "m", "size": 16, "api_key_env": "TEST_ENDPOINT_KEY", **params}
    editor = {"name": "endpoint", "weights": {}, "params": params}
    return painter_job(folder, manifest, editor=editor, metrics=["background_l1"], max_failure_rate=1.0)


def quiet(job: Any) -> Any:
    return run(job, executor="local", console=Console(file=io.StringIO()))


def test_a_whole_job_ends_with_every_row_edited_or_a_reason_and_the_key_nowhere(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    refused = {"blocked": refusal(400, f"unsafe for {KEY}", "moderation_blocked"), "bad": Answer(200, b"{")}
    server.answer = lambda form: refused.get(form.prompt, negative(form))
    job = endpoint_job(tmp_path, write_dataset(tmp_path, 6, {1: "blocked", 2: "bad", 3: ""}), server.url)
    quiet(job)
    table = {row["key"]: row for row in results.read(job.output).to_pylist()}
    statuses = [table[f"row-{i:03d}"]["status"] for i in range(6)]
    assert statuses == ["success", "filtered", "failed_to_edit", "failed_to_load", "success", "success"]
    assert [table[f"row-{i:03d}"]["reproducible"] for i in (0, 4, 5)] == [False] * 3
    assert {row["background_changed_px"] for row in table.values()} == {0, None}
    assert verify_output(job.output).ok
    for path in Path(job.output).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    sent = len(server.forms)
    assert sent == 5  # one for each row that has a prompt: padding costs nothing
    moved = endpoint_job(tmp_path, Path(job.manifests[0]), server.url.replace("127.0.0.1", "localhost"), concurrency=1)
    assert quiet(moved).answered_now == 0  # the same job: where and how fast is no part of it
    assert len(server.forms) == sent


def test_a_run_that_is_refused_fails_no_row_and_resumes(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    server.answer = lambda form: refusal(401, "expired")
    job = endpoint_job(tmp_path, write_dataset(tmp_path, 4), server.url)
    with pytest.raises(Unavailable, match="status 401: expired"):
        quiet(job)
    assert results.read(job.output).num_rows == 0
    server.answer = negative
    assert quiet(job).statuses["success"] == 4
