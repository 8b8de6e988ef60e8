"""A server of ``/v1/images/edits`` in a thread: records the forms that it gets, and answers as a test says."""

from __future__ import annotations

import base64
import email
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.datasets import png


@dataclass(frozen=True)
class Form:
    """One request to edit an image."""

    fields: Mapping[str, bytes]
    headers: Mapping[str, str]

    @property
    def prompt(self) -> str:
        return self.fields["prompt"].decode()

    def array(self, name: str) -> np.ndarray:
        """Return the pixels of an uploaded PNG."""
        return np.asarray(Image.open(io.BytesIO(self.fields[name])))


@dataclass(frozen=True)
class Answer:
    """What the server sends; None as status closes the connection without a word."""

    status: int | None = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def image_answer(pixels: np.ndarray) -> Answer:
    """Return an answer with an image in base64."""
    return json_answer({"data": [{"b64_json": base64.b64encode(png(pixels)).decode()}]})


def json_answer(found: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(
        status, json.dumps(found).encode(), {name.replace("_", "-"): value for name, value in headers.items()}
    )


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """Return an error in OpenAI's form."""
    return json_answer({"error": {"message": message, "code": code}}, status, **headers)


def negative(form: Form) -> Answer:
    """Return the negative of the form's image."""
    return image_answer(255 - form.array("image")[..., :3])


@dataclass
class ImageServer:
    """The server's address and what it got; ``answer`` may be changed while it runs."""

    answer: Callable[[Form], Answer] = negative
    url: str = ""
    forms: list[Form] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # path to image, for answers with an address
    downloads: list[Mapping[str, str]] = field(default_factory=list)  # headers of GETs
    released: threading.Event = field(default_factory=threading.Event)  # set when the test is over


@contextmanager
def image_server(answer: Callable[[Form], Answer] = negative) -> Iterator[ImageServer]:
    """Start a server."""
    state = ImageServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            form = Form(_parts(self.headers["Content-Type"], body), dict(self.headers))
            state.forms.append(form)
            self.send(state.answer(form) if self.path == "/v1/images/edits" else refusal(404, "no such path"))

        def do_GET(self) -> None:
            state.downloads.append(dict(self.headers))
            found = state.files.get(self.path)
            self.send(Answer(404) if found is None else Answer(200, found))

        def send(self, answer: Answer) -> None:
            if answer.status is None:
                self.close_connection = True
                return
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)
                self.close_connection = "Content-Length" in answer.headers  # another length than the body's
            except OSError:  # the client has given up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _parts(kind: str, body: bytes) -> dict[str, bytes]:
    """Return the fields of a multipart form."""
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    found = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        found[str(name)] = part.get_payload(decode=True)  # type: ignore[union-attr]
    return found  # type: ignore[return-value]
