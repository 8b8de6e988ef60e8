"""S3 services for tests: a real one (Ceph's radosgw), and a proxy in front of any that injects faults."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

SCRIPT = Path(__file__).parent / "ceph_s3.sh"
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
INSTALL = "apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"
# Ray's workers listen on 10002..19999, and the kernel assigns ports from 32768 on.
PORTS = range(20100, 32000, 2)
SLOW = 1.5  # seconds
Fault = int | Literal["cut", "flip", "slow"] | None
ACCESS_KEY, SECRET_KEY = "retouch-test", "retouch-test-secret"


@dataclass(frozen=True)
class Endpoint:
    """An S3 service's address and credentials."""

    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def environment(self) -> dict[str, str]:
        """Return the standard environment variables for the service."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Without this, Ceph refuses the uploads of pyarrow's S3 client with 411.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }


def missing_programs() -> list[str]:
    """Return the programs of the real service that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True)
class Ceph:
    """A running service whose daemons can be killed."""

    endpoint: Endpoint
    folder: str

    def pid(self, service: str) -> int:
        """Return the process id of ``radosgw`` (the gateway), ``osd`` (the disk) or ``mon``."""
        return int((Path(self.folder) / f"{service}.pid").read_text())

    def revive_gateway(self) -> None:
        """Start the gateway again after it was killed; it stops with the service."""
        command = ["radosgw", "-f", "-n", "client.rgw", "--setuser", "root", "--setgroup", "root"]
        environment = {**os.environ, "CEPH_CONF": f"{self.folder}/ceph.conf"}
        with open(f"{self.folder}/radosgw.out", "ab") as log:
            started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        (Path(self.folder) / "radosgw.pid").write_text(str(started.pid))

    def start(self) -> None:
        """Start the service."""
        port = urlsplit(self.endpoint.url).port
        subprocess.run(
            [SCRIPT, "start", self.folder, str(port), self.endpoint.access_key, self.endpoint.secret_key],
            check=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def ceph() -> Iterator[Ceph]:
    """Start a new Ceph with one S3 user; stop and remove it in the end."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="retouch-ceph-", dir=memory if memory.is_dir() else None)
    port = next(port for port in PORTS if _free(port) and _free(port + 1))
    try:
        service = Ceph(Endpoint(f"http://127.0.0.1:{port}"), folder)
        service.start()
        yield service
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
        shutil.rmtree(folder)


@contextmanager
def faulty(behind: Endpoint, answer: Callable[[str, str], Fault]) -> Iterator[Endpoint]:
    """Start a proxy that forwards requests or injects faults.

    Args:
        behind: the service that gets the requests.
        answer: returns, for a request's method and path, the status to refuse it with; 0 to forward it and close the
            connection without a response; ``cut`` to close it in the middle of the response's body; ``flip`` to change
            one byte of an uploaded or downloaded object; ``slow`` to wait first; None to forward it.
    """
    host = urlsplit(behind.url).netloc

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = answer(self.command, self.path)
            if status == "slow":
                time.sleep(SLOW)
            if status == "flip" and self.command == "PUT":
                body = _flipped(body)
            if isinstance(status, int) and status:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = HTTPConnection(host)
            # The Host header is the proxy's, because it was signed.
            connection.request(self.command, self.path, body, dict(self.headers))
            reply = connection.getresponse()
            data = reply.read()
            connection.close()
            if status == 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            if status == "flip" and self.command == "GET" and "xml" not in (reply.getheader("Content-Type") or ""):
                data = _flipped(data)
            length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if status == "cut":
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 (http.server names them so)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}", behind.access_key, behind.secret_key)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
