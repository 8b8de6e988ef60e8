"""The notice of a spot instance's end drains its node: the real script, with a metadata service and a `ray` of ours."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/spot_drain.sh"
TOKEN = "a-session"


class Metadata(BaseHTTPRequestHandler):
    """Version 2 of AWS' instance metadata; the notice comes when it was asked for three times."""

    asked: list[str | None]

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/api/token" else 404, TOKEN)

    def do_GET(self) -> None:
        self.asked.append(self.headers["X-aws-ec2-metadata-token"])
        known = self.path == "/meta-data/spot/instance-action" and self.asked[-1] == TOKEN
        self._answer(200 if known and len(self.asked) >= 3 else 404, '{"action": "terminate"}')

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[ThreadingHTTPServer]:
    Metadata.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_node_is_drained_once_and_not_before_the_notice(metadata: ThreadingHTTPServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    ray.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "IMDS": f"http://127.0.0.1:{metadata.server_port}",
        "INTERVAL": "0.05",
        "no_proxy": "127.0.0.1",
    }
    subprocess.run(["sh", str(SCRIPT)], env=environment, check=True, timeout=30)
    assert len(Metadata.asked) == 3
    (line,) = calls.read_text().splitlines()
    assert line.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION")
    assert "--deadline-remaining-seconds 110" in line
