"""Requests to ``/images/edits`` of an OpenAI-compatible server: form, retries, and what its responses mean."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import stamina

from retouch import telemetry
from retouch.editors.endpoint.params import Params
from retouch.errors import EditError, Filtered, RowError, Unavailable
from retouch.redaction import MASK, redacted

FIRST_WAIT: Final = 1.0  # seconds, doubled at each retry
LONGEST_WAIT: Final = 60.0
LONGEST_RETRY_AFTER: Final = 300.0  # seconds; a server that asks for more is one that is unavailable
MAX_BYTES: Final = 128 << 20  # of a response: a PNG of 4096 x 4096 in base64
MAX_QUOTED: Final = 300  # characters of a server's message in an error

INTERNAL_ERROR: Final = 500
_TRANSIENT: Final = frozenset({408, 409, 425, 429})  # and all from 500
_REFUSED: Final = frozenset({401, 403, 404, 405})  # wrong key, wrong address: of no row
_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_POLICY: Final = frozenset({"moderation_blocked", "content_policy_violation", "content_filter"})


@dataclass(frozen=True)
class Request:
    """One row's form."""

    image: bytes  # PNG
    mask: bytes | None  # PNG, in the server's convention
    prompt: str
    negative_prompt: str  # empty: the field is not sent
    seed: int | None


class _RetryableError(Exception):
    """A failure that may pass: throttling, a server's error, a connection that broke or timed out."""

    def __init__(self, text: str, after: float | None = None, status: int | None = None) -> None:
        super().__init__(text)
        self.after = after  # seconds, if the server asks for a wait
        self.status = status  # of the response to the edit; None without one


class Client:
    """A server, and how many edits it has returned.

    Args:
        params: address, fields and limits.
        key: the API key; never part of an error.
    """

    def __init__(self, params: Params, key: str | None) -> None:
        self.params, self._key = params, key
        self.address = f"{params.url.rstrip('/')}/images/edits"
        self._edited = 0

    def edit(self, requests: Sequence[Request], params: Params) -> list[bytes | RowError]:
        """Return each request's image file, or its row's error.

        Args:
            requests: sent ``concurrency`` at a time.
            params: a row's own fields.

        Raises:
            Unavailable: the server cannot be reached, refuses all requests, or still fails after all attempts.
        """
        try:
            return asyncio.run(self._edit(requests, params))
        except ExceptionGroup as group:  # of the first failure and those that it cancelled
            raise group.exceptions[0] from None

    async def _edit(self, requests: Sequence[Request], params: Params) -> list[bytes | RowError]:
        limit = asyncio.Semaphore(self.params.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.params.timeout_seconds)

        async def one(session: aiohttp.ClientSession, request: Request) -> bytes | RowError:
            async with limit:
                try:
                    return await self._persistently(session, request, params)
                except RowError as error:
                    return error

        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(session, request)) for request in requests]
        return [task.result() for task in tasks]

    async def _persistently(self, session: aiohttp.ClientSession, request: Request, params: Params) -> bytes:
        """Send a request until it succeeds or is refused, or the attempts are used up."""
        before = self._edited
        try:
            async for attempt in stamina.retry_context(
                wait_of,
                attempts=self.params.attempts,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=LONGEST_WAIT,
                wait_jitter=FIRST_WAIT,
            ):
                if attempt.num > 1:
                    telemetry.count("retries.endpoint")
                with attempt:
                    found = await self._once(session, request, params)
                    self._edited += 1
                    return found
        except _RetryableError as error:
            if self._edited > before:  # the server is well, so the row is the reason
                raise EditError(f"{error}, while the server edited other rows") from None
            if error.status == INTERNAL_ERROR:  # the server runs, and this request makes it fail each time
                raise EditError(f"{error}, at every attempt") from None
            raise Unavailable(f"{error}; resume when the server is well") from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(self, session: aiohttp.ClientSession, request: Request, params: Params) -> bytes:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        status, headers, body = await self._exchange(
            session, "POST", self.address, data=_form(request, params), headers=key, allow_redirects=False
        )
        if status != 200:
            raise self._error(status, headers, body)
        return await self._image(session, body)

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, address: str, **more: Any
    ) -> tuple[int, Any, bytes]:
        """Return status, headers and body of one exchange. Raises _RetryableError."""
        body = bytearray()
        try:
            async with session.request(method, address, **more) as response:
                async for chunk in response.content.iter_chunked(1 << 20):
                    body += chunk
                    if len(body) > MAX_BYTES:
                        break
                return response.status, response.headers, bytes(body)
        except TimeoutError:
            seconds = f"{self.params.timeout_seconds:g}"
            raise _RetryableError(self._line(f"no response within {seconds} s")) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _RetryableError(self._line(f"{type(error).__name__}: {error}")) from None

    async def _image(self, session: aiohttp.ClientSession, body: bytes) -> bytes:
        """Return the image file that a response holds or points to."""
        if len(body) > MAX_BYTES:
            raise EditError(self._line(f"the response is over {MAX_BYTES >> 20} MB"))
        try:
            data = json.loads(body)["data"]
        except (ValueError, KeyError, TypeError):
            raise EditError(self._line("the response is no JSON object with data")) from None
        item = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
        if item.get("respect_moderation") is False:
            raise Filtered(self._line("the server's moderation withheld the edit"))
        if isinstance(encoded := item.get("b64_json"), str):
            try:
                return base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise EditError(self._line("b64_json of the response is no base64")) from None
        if isinstance(address := item.get("url"), str) and address.startswith(("http://", "https://")):
            return await self._download(session, address)
        raise EditError(self._line("the response has no image, neither b64_json nor url"))

    async def _download(self, session: aiohttp.ClientSession, address: str) -> bytes:
        # Without the key: the address may be another host's.
        status, headers, body = await self._exchange(session, "GET", address)
        if status >= 500 or status in _TRANSIENT:
            raise _RetryableError(self._line(f"the image's address: status {status}"), retry_after(headers))
        if status != 200 or len(body) > MAX_BYTES:
            raise EditError(self._line(f"the image's address: status {status}, {len(body):,} bytes"))
        return body

    def _error(self, status: int, headers: Any, body: bytes) -> Exception:
        """Return what a status other than 200 means: for the row, for the run, or for another attempt."""
        code, text = _reason(body)
        line = self._line(f"status {status}{f' ({code})' if code else ''}: {text}")
        if code in _NO_MONEY:
            return Unavailable(line)
        if status in _REFUSED or status < 400:  # a redirected POST would lose its form
            hint = f"look at the variable {self.params.api_key_env}" if status in (401, 403) else "look at url"
            return Unavailable(f"{line}; {hint}")
        if status >= 500 or status in _TRANSIENT:
            return _RetryableError(line, retry_after(headers), status)
        if code in _POLICY:
            return Filtered(line)
        return EditError(line)

    def _line(self, text: str) -> str:
        """Return one line that names the server, without the key."""
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, MASK)
        text = redacted(text)
        return f"{self.address}: {text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + ' ...'}"


def wait_of(error: Exception) -> bool | float:
    """Return whether to try again, or after how many seconds if the server asked for a wait."""
    if not isinstance(error, _RetryableError):
        return False
    if error.after is None:
        return True
    return error.after if error.after <= LONGEST_RETRY_AFTER else False


def retry_after(headers: Any, now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which is a number or a date; None if there is none."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (then.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds())


def _form(request: Request, params: Params) -> aiohttp.FormData:
    """Return the multipart form. A new one per attempt, since it can be sent only once."""
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("image", request.image, filename="image.png", content_type="image/png")
    if request.mask is not None:
        form.add_field(params.mask_field, request.mask, filename="mask.png", content_type="image/png")
    texts: dict[str, Any] = {"prompt": request.prompt, "model": params.model, "n": 1}
    texts["size"] = f"{params.size}x{params.size}"
    texts |= {"negative_prompt": request.negative_prompt} if request.negative_prompt else {}
    texts |= {} if request.seed is None else {"seed": request.seed}
    texts |= {} if params.response_format is None else {"response_format": params.response_format}
    for name, value in {**texts, **params.fields}.items():
        form.add_field(name, str(value).lower() if isinstance(value, bool) else str(value))
    return form


def _reason(body: bytes) -> tuple[str, str]:
    """Return code and message of a server's error, in OpenAI's form, FastAPI's, or any."""
    try:
        found = json.loads(body)
    except ValueError:
        return "", body[: 2 * MAX_QUOTED].decode(errors="replace") or "no message"
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return "", str(error)
    return str(error.get("code") or ""), str(error.get("message") or error.get("detail") or error)
