"""S3 services for tests: a real one (Ceph's radosgw) and a gateway in front of any that fails as told."""

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
# Ray's workers listen on 10002..19999 and the kernel gives away ports from 32768 on.
PORTS = range(20100, 32000, 2)
SLOW = 1.5  # seconds
Fault = int | Literal["cut", "flip", "slow"] | None
ACCESS_KEY, SECRET_KEY = "retouch-test", "retouch-test-secret"


@dataclass(frozen=True)
class Endpoint:
    """Where an S3 service answers, and to whom."""

    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables, for this process and for any that it starts."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # For pyarrow's own S3 client, which otherwise sends what Ceph answers with 411.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }


def missing_programs() -> list[str]:
    """What the real service needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True)
class Ceph:
    """A running service, of which parts can be hurt."""

    endpoint: Endpoint
    folder: str

    def pid(self, service: str) -> int:
        """Of ``radosgw`` (the gateway), ``osd`` (the disk) or ``mon``."""
        return int((Path(self.folder) / f"{service}.pid").read_text())

    def revive_gateway(self) -> None:
        """Start the gateway again after it was killed; the end of the service ends it, too."""
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
    """A fresh Ceph with one S3 user, ended and removed in the end."""
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
    """A gateway that hands requests on, unless told otherwise.

    Args:
        behind: the service that it stands in front of.
        answer: of a request's method and path, the status to refuse it with; 0 to hand it on and then break the
            connection instead of answering; ``cut`` to break off in the middle of the answer's body; ``flip`` to
            change one byte of an object on its way up or down; ``slow`` to wait first; None to hand it on.
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
            # With the Host that was signed: the one in front.
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
            """Say nothing."""

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
