"""Where a target is measured: this machine, a host over ssh, or whatever a command reaches.

A device gets one stream: a small program on the command line of its Python, and a tar archive
with the files on stdin. It unpacks into a folder of its own, runs the measuring script there,
answers with JSON and leaves nothing behind.
"""

import io
import json
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np
import tenacity

from mlflow_compress.errors import CompressError, ConfigError, UnreachableError
from mlflow_compress.measure import drift_of
from mlflow_compress.measure.intervals import median_interval
from mlflow_compress.records import Latency
from mlflow_compress.targets.facts import DeviceFacts, to_facts, verify
from mlflow_compress.targets.profile import Target

__all__ = [
    "CommandDevice",
    "Device",
    "DeviceFacts",
    "LocalDevice",
    "Measurement",
    "SshDevice",
    "device_for",
    "loads_opset",
    "measure_memory",
    "measure_on",
    "read_facts",
    "verify",
]

_PROBE = Path(__file__).with_name("probe.py")
# Runs on the device, before anything of this project is there. What the runtime writes into the
# temporary folder goes with it.
_BOOTSTRAP = (
    "import os,subprocess,sys,tarfile,tempfile\n"
    "with tempfile.TemporaryDirectory(prefix='mlflow_compress_') as d:\n"
    " tarfile.open(fileobj=sys.stdin.buffer,mode='r|').extractall(d)\n"
    " env=dict(os.environ,TMPDIR=d)\n"
    " sys.exit(subprocess.call([sys.executable,'probe.py']+sys.argv[1:],cwd=d,env=env))\n"
)
_SSH_FAILED = 255
_ATTEMPTS = 3
# What trying again does not change; the text is OpenSSH's.
_FINAL = ("Host key verification failed", "Permission denied", "Could not resolve hostname")
_MISSING = "No module named"
_INSTALL = "install numpy and onnxruntime there, or name its Python as ssh://host?python=/path"


class _DeviceFailed(Exception):  # noqa: N818 - never leaves this module
    """One attempt failed; ``final`` when another would fail alike."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class Device(Protocol):
    """Something that runs a Python command line with a stream on stdin."""

    @property
    def name(self) -> str:
        """How the device is called in records."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the local command that runs the device's Python with ``arguments``."""


@dataclass(frozen=True)
class LocalDevice:
    """This machine, in a fresh process confined to the target's threads."""

    name: str = "local"
    python: str = sys.executable

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command."""
        return [self.python, *arguments]


@dataclass(frozen=True)
class SshDevice:
    """A host that the system's ssh client reaches, with the user's own settings and keys.

    Attributes:
        name: the address as the target says it, for the record.
        host: ``user@host`` or a name from ssh's configuration.
        port: TCP port, None for ssh's choice.
        python: Python on the device.
        options: further options for ssh.
    """

    name: str
    host: str
    port: int | None = None
    python: str = "python3"
    options: tuple[str, ...] = ()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command; an unknown host key is refused, never accepted."""
        remote = shlex.join([self.python, *arguments])
        return [
            "ssh",
            *("-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10"),
            *(("-p", str(self.port)) if self.port is not None else ()),
            *self.options,
            "--",
            self.host,
            remote,
        ]


@dataclass(frozen=True)
class CommandDevice:
    """Whatever a command reaches: ``docker exec -i box``, ``adb exec-in``, ``kubectl exec -i``.

    Attributes:
        name: the template as the target says it, for the record.
        template: the command; ``{command}`` in it becomes the quoted command line of the
            device's Python, which is otherwise put at its end.
        python: Python on the device.
    """

    name: str
    template: tuple[str, ...]
    python: str = "python3"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command."""
        inner = [self.python, *arguments]
        if not any("{command}" in part for part in self.template):
            return [*self.template, *inner]
        return [part.replace("{command}", shlex.join(inner)) for part in self.template]


def device_for(measured_on: str) -> Device:
    """Return the device behind a target's ``measured_on``.

    Args:
        measured_on: ``local``, ``ssh://user@host:2222?python=/opt/venv/bin/python``, or
            ``cmd:docker exec -i box``.

    Raises:
        ConfigError: the address is not of that form.
    """
    if measured_on == "local":
        return LocalDevice()
    if measured_on.startswith("cmd:"):
        try:
            template = tuple(shlex.split(measured_on.removeprefix("cmd:")))
        except ValueError as error:
            raise ConfigError(f"measured_on {measured_on!r}: {error}") from None
        if not template:
            raise ConfigError(f"measured_on {measured_on!r}: the command is empty")
        return CommandDevice(measured_on, template)
    try:
        parts = urlsplit(measured_on)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"measured_on {measured_on!r}: {error}") from None
    host = parts.hostname or ""
    # A host that began with a dash would be an option to ssh.
    if parts.scheme != "ssh" or not host or host.startswith("-") or parts.path.strip("/"):
        raise ConfigError(
            f"measured_on {measured_on!r}: must be local, ssh://user@host[:port] or cmd:…"
        )
    query = parse_qs(parts.query)
    if set(query) - {"python"}:
        raise ConfigError(f"measured_on {measured_on!r}: only ?python=… is known")
    user = f"{parts.username}@" if parts.username else ""
    python = query.get("python", ["python3"])[0]
    return SshDevice(measured_on, user + host, port, python)


@dataclass(frozen=True)
class Measurement:
    """What was measured on a device: latency beside the source's, and peak memory."""

    latency: Latency
    memory_bytes: int


def read_facts(device: Device, *, timeout: float = 60.0) -> DeviceFacts:
    """Ask a device what it is.

    Raises:
        UnreachableError: it cannot be reached, or has no Python with onnxruntime.
    """
    return to_facts(_ask(device, {}, ["facts"], timeout))


def measure_on(
    target: Target,
    variant: str | Path,
    source: str | Path,
    inputs: Mapping[str, np.ndarray],
    *,
    compact: bool = False,
    rounds: int = 15,
    seed: int = 0,
    timeout: float = 300.0,
    device: Device | None = None,
) -> Measurement:
    """Measure a variant where its target says, interleaved with the source.

    Args:
        target: says where, with how many threads, and within which memory.
        variant: the packed file.
        source: the source's ONNX file.
        inputs: one batch for each call, by input name.
        compact: the variant is in the compact profile, which needs this project's runtime.
        rounds: rounds of both models, in an order that changes.
        seed: seeds the order and the bootstrap.
        timeout: seconds for each of the two tasks, time and memory.
        device: in place of the one the target names.

    Raises:
        CompressError: the device cannot run the variant; the message has its error.
        UnreachableError: the device cannot be reached, is too slow, or dies, three times.
    """
    device = device if device is not None else device_for(target.measured_on)
    files = _files(variant, inputs) | {"source.onnx": Path(source).read_bytes()}
    told = json.dumps(_settings(target, compact) | {"rounds": rounds, "seed": seed})
    spent = _ask(
        device, files, ["time", "variant.onnx", "source.onnx", "inputs.npz", told], timeout
    )
    _refuse(spent, device)
    batch = len(next(iter(inputs.values())))
    latency = _latency(spent, device.name, target.execution.threads, batch, seed)
    peak = measure_memory(target, variant, inputs, compact=compact, timeout=timeout, device=device)
    return Measurement(latency, peak)


def measure_memory(
    target: Target,
    variant: str | Path,
    inputs: Mapping[str, np.ndarray],
    *,
    compact: bool = False,
    timeout: float = 300.0,
    device: Device | None = None,
) -> int:
    """Return the peak resident bytes of a fresh process that opens a variant and runs it.

    The arguments and errors are those of :func:`measure_on`.
    """
    device = device if device is not None else device_for(target.measured_on)
    told = json.dumps(_settings(target, compact))
    arguments = ["memory", "variant.onnx", "-", "inputs.npz", told]
    answer = _ask(device, _files(variant, inputs), arguments, timeout)
    _refuse(answer, device)
    return int(answer["peak"])


def _settings(target: Target, compact: bool) -> dict[str, Any]:
    """What the measuring script has to know of a target."""
    here = target.measured_on == "local"
    settings: dict[str, Any] = {
        "threads": target.execution.threads,
        "providers": list(target.execution.providers),
        "compact": compact,
        "pin": here,
    }
    if here and target.execution.memory_bytes is not None:
        settings["memory_limit"] = target.execution.memory_bytes
    return settings


def _files(variant: str | Path, inputs: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {"variant.onnx": Path(variant).read_bytes(), "inputs.npz": _npz(inputs)}


def _refuse(answer: Mapping[str, Any], device: Device) -> None:
    if "error" in answer:
        raise CompressError(f"{device.name} cannot run the variant: {answer['error'][:300]}")


def loads_opset(device: Device, opset: int, *, timeout: float = 60.0) -> str:
    """Run a network of one node and of this opset on a device.

    Returns:
        What its onnxruntime says against it, or nothing.

    Raises:
        UnreachableError: the device cannot be reached.
    """
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "probe", values[:1], values[1:])
    # The intermediate representation of ONNX 1.2: what is asked about is the opset.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    feed = {"x": np.zeros(1, np.float32)}
    files = {"variant.onnx": model.SerializeToString(), "inputs.npz": _npz(feed)}
    told = json.dumps({"threads": 1})
    answer = _ask(device, files, ["memory", "variant.onnx", "-", "inputs.npz", told], timeout)
    return str(answer.get("error", ""))


def _npz(inputs: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(inputs))  # type: ignore[arg-type]
    return buffer.getvalue()


def _latency(spent: Mapping[str, Any], device: str, threads: int, batch: int, seed: int) -> Latency:
    fastest = np.asarray(spent["fastest"], dtype=np.float64)
    ratios = fastest[:, 0] / fastest[:, 1]
    interval = median_interval(ratios, level=0.95, seed=seed)
    p50, p95 = np.quantile(spent["variant"], [0.5, 0.95]) * 1e3
    return Latency(
        device=device,
        threads=threads,
        batch=batch,
        p50=float(p50),
        p95=float(p95),
        source_p50=float(np.median(spent["source"]) * 1e3),
        ratio=float(np.median(ratios)),
        ratio_interval=interval,
        drift=drift_of(fastest[:, 1]),
    )


def _ask(
    device: Device, files: Mapping[str, bytes], arguments: Sequence[str], timeout: float
) -> dict[str, Any]:
    """Send the files, run the script, return its answer; try again what may pass."""
    stream = _archive({**files, "probe.py": _PROBE.read_bytes()})
    command = device.command(["-c", _BOOTSTRAP, *arguments])
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, _DeviceFailed) and not error.final
        ),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    try:
        return retrying(_once, command, stream, timeout)
    except _DeviceFailed as error:
        raise UnreachableError(f"device {device.name}: {error}") from None


def _once(command: Sequence[str], stream: bytes, timeout: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, input=stream, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise _DeviceFailed(f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise _DeviceFailed(f"{command[0]}: {error.strerror or error}", final=True) from None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1].strip() if lines else f"exit code {done.returncode}"
    if done.returncode != 0:
        if _MISSING in said:
            raise _DeviceFailed(f"{said} ({_INSTALL})", final=True)
        final = any(text in line for text in _FINAL for line in lines)
        by_ssh = done.returncode == _SSH_FAILED and command[0] == "ssh"
        what = "ssh: " if by_ssh and not said.startswith("ssh:") else ""
        raise _DeviceFailed(f"{what}{said}", final=final)
    try:
        answer = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise _DeviceFailed("the measuring script gave no answer") from None
    if not isinstance(answer, dict):
        raise _DeviceFailed(f"the measuring script answered {str(answer)[:80]!r}")
    return answer


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
