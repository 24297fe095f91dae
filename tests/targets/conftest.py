"""Two small networks, a device that fails on demand, and sshd where there is one."""

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mlflow_compress

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


@pytest.fixture(autouse=True)
def project_on_the_path(monkeypatch):
    """What runs on "the device" is this Python: it must find the project from any folder."""
    home = str(Path(mlflow_compress.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", home)


@pytest.fixture
def models(tmp_path):
    """Paths of ``variant.onnx`` and of ``source.onnx``, which does much more work."""
    paths = []
    for name, depth in (("variant", 1), ("source", 40)):
        rng = np.random.default_rng(0)
        weights = numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "w")
        names = ["x", *(f"h{i}" for i in range(depth - 1)), "y"]
        graph = helper.make_graph(
            [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        paths.append(path)
    return paths


@pytest.fixture
def rows():
    return {"x": np.ones((16, 64), np.float32)}


def write_script(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def script(tmp_path):
    """Return a function that writes an executable shell script and returns its path."""
    return lambda name, text: write_script(tmp_path / name, f"#!/bin/sh\n{text}\n")


@dataclass
class Host:
    """What an ssh target of the tests is reached with."""

    url: str
    known_hosts: Path


NO_SSHD = pytest.mark.skipif(not SSHD, reason="no sshd: tests/tools/install_servers.sh installs it")


@pytest.fixture(params=["stand-in", pytest.param("sshd", marks=NO_SSHD)])
def ssh_host(request, tmp_path, monkeypatch):
    """A host that ``ssh`` reaches: a real sshd on loopback where one is installed.

    The stand-in for ssh does what sshd does with a command line: gives it to a shell.
    """
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    known = tmp_path / "known_hosts"
    python = f"?python={sys.executable}"
    if request.param == "stand-in":
        known.write_text("device ssh-ed25519 AAAA\n")
        write_script(
            bin_dir / "ssh",
            "#!/bin/sh\n"
            f'case "$*" in *StrictHostKeyChecking=yes*) [ -s {known} ] || {{\n'
            "  echo 'Host key verification failed.' >&2; exit 255; };; esac\n"
            'for last; do :; done\nexec sh -c "$last"\n',
        )
        yield Host(f"ssh://pi@device{python}", known)
        return
    with running_sshd(tmp_path, known) as (port, key):
        real = shutil.which("ssh", path=os.environ["PATH"].split(os.pathsep, 1)[1])
        options = f"-F none -i {key} -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=none"
        write_script(bin_dir / "ssh", f'#!/bin/sh\nexec {real} {options} "$@"\n')
        yield Host(f"ssh://{getpass.getuser()}@127.0.0.1:{port}{python}", known)


class running_sshd:  # noqa: N801 - used like a function
    """Run sshd as this user, on a free port, with keys of its own."""

    def __init__(self, folder, known):
        self.folder, self.known = folder, known

    def __enter__(self):
        host_key, key = self.folder / "host_key", self.folder / "key"
        for path in (host_key, key):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
            subprocess.run(command, check=True)
        (self.folder / "authorized").write_text(key.with_suffix(".pub").read_text())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nUsePAM no\n"
            f"PidFile none\nSetEnv PYTHONPATH={os.environ['PYTHONPATH']}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)])
        public = host_key.with_suffix(".pub").read_text()
        self.known.write_text(f"[127.0.0.1]:{port} {public}")
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port, key
            time.sleep(0.05)
        raise AssertionError("sshd does not start")

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
