"""A web server with files in memory that can be slow, ignore ranges or close connections, and records requests."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """The server's files and behaviour; may be changed while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    ranges: bool = True  # whether it supports range requests
    seconds: float = 0.0  # delay before each GET of a file
    refuse_after: int | None = None  # number of GETs after which it responds 403
    asked: list[tuple[int, int]] = field(default_factory=list)  # first and last byte of each GET
    turn: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Web]:
    """Start a server of ``{"/name": bytes}``."""
    web = Web(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            if self.path in web.files:
                with web.turn:
                    time.sleep(web.seconds)
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            data = web.files.get(self.path.partition("?")[0])
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(data or b"") - 1)
            status = 404 if data is None else 200
            if data is not None and body:
                if web.refuse_after is not None and len(web.asked) >= web.refuse_after:
                    status = 403
                else:
                    web.asked.append((first, last))
            part = (data or b"") if not (web.ranges and wanted) else (data or b"")[first : last + 1]
            if status == 200 and web.ranges and wanted:
                status = 206
            self.send_response(status)
            self.send_header("ETag", f'"{hash(data)}"')
            self.send_header("Content-Length", str(len(part) if status in (200, 206) else 0))
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data or b'')}")
            self.end_headers()
            if body and status in (200, 206):
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
