"""Real servers, as processes on free ports of this host."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command, log, *, ready, folder=None, inherited=os.environ, **environment):
    """Run a server once ``ready``, a URL, answers; end it afterwards, by force if need be."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**inherited, **environment},
            start_new_session=True,
        )
    try:
        await_answer(ready, process, log)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def await_answer(url, process, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer: {log.read_text()}")


@contextmanager
def mlflow_server(folder, store, *options, **environment):
    """Run ``mlflow server`` in a folder on a store, without our settings; gives its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store),
        *("--artifacts-destination", str(folder / "served"), "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port), *options),
    ]
    # Its runner of background jobs is half a dozen further processes, which nothing here needs.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environment
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
    uri, log = f"http://127.0.0.1:{port}", folder / "mlflow-server.log"
    with running(
        command, log, ready=f"{uri}/health", folder=folder, inherited=clean, **environment
    ):
        yield uri
