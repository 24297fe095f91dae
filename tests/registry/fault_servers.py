"""The servers of ``faults.py``: PostgreSQL, and a proxy that lets chosen requests fail."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.registry.fault_job import BrokenError
from tests.servers import free_port


class Proxy(BaseHTTPRequestHandler):
    """Hands requests on to the server, but for the one that the fault is set for.

    The faults: ``500``, ``timeout`` and ``drop`` leave the request undone, ``lost`` drops the
    answer of one that was done; ``kill`` and ``killed`` end the client before and after it is done.
    """

    protocol_version = "HTTP/1.1"
    # Answers in one packet: a body would else wait 40 ms for its head to be acknowledged.
    wbufsize = -1
    disable_nagle_algorithm = True
    upstream = ""
    lock = threading.Lock()
    fault = ""
    at = 0
    seen = 0
    until_end = False
    process = 0

    def log_message(self, *args: object) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = type(self)
        if self.path == "/__fault":
            with kind.lock:
                setting = json.loads(body)
                kind.fault, kind.at = setting["fault"], setting["at"]
                kind.until_end, kind.process = setting["until_end"], setting["process"]
                seen, kind.seen = kind.seen, 0
            self._answer(200, str(seen).encode())
            return
        with kind.lock:
            kind.seen += 1
            hit = kind.seen == kind.at or (kind.until_end and kind.seen > kind.at)
            fault = kind.fault if hit else ""
        if fault == "500":
            self._answer(500, b"the fault that was asked for")
        elif fault == "timeout":
            time.sleep(2.5)
            self.close_connection = True
        elif fault == "drop":
            self._drop()
        elif fault == "kill":
            os.kill(kind.process, signal.SIGKILL)
        else:
            status, answer = self._hand_on(body)
            if fault == "killed":
                os.kill(kind.process, signal.SIGKILL)
            elif fault == "lost":
                self._drop()
            else:
                self._answer(status, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hand_on(self, body: bytes) -> tuple[int, bytes]:
        keep = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(
            self.upstream + self.path, data=body or None, headers=keep, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a cluster of its own in a temporary folder; yield its URI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise BrokenError("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    # It refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    home, port = Path(tempfile.mkdtemp(prefix="pg")), free_port()
    if user:
        shutil.chown(home, "postgres")
    data, ctl = home / "data", str(found[-1] / "pg_ctl")
    options = f"-h 127.0.0.1 -p {port} -k {home} -F"

    def run(*command: str) -> None:
        with (folder / "postgres.log").open("a") as log:
            subprocess.run([*user, *command], check=True, cwd=home, stdout=log, stderr=log)

    run(str(found[-1] / "initdb"), "-A", "trust", "-U", "mlflow", "-D", str(data))
    run(ctl, "-D", str(data), "-w", "-o", options, "-l", str(home / "log"), "start")
    try:
        # SQLAlchemy takes psycopg 3 when no driver is named; MLflow is used with psycopg2.
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        run(ctl, "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(home)


@contextmanager
def proxy(upstream: str) -> Iterator[str]:
    """Run the fault proxy in a process of its own."""
    port = free_port()
    Proxy.upstream = upstream
    process = os.fork()
    if process == 0:
        ThreadingHTTPServer(("127.0.0.1", port), Proxy).serve_forever()
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                set_fault(uri, "", 0)
                break
            except OSError:
                time.sleep(0.05)
        yield uri
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def set_fault(uri: str, fault: str, at: int, until_end: bool = False, process: int = 0) -> int:
    """Set the next fault; return how many requests there were since the last time."""
    setting = {"fault": fault, "at": at, "until_end": until_end, "process": process}
    body = json.dumps(setting).encode()
    request = urllib.request.Request(f"{uri}/__fault", data=body, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.read())
