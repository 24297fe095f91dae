"""How a device is reached: one stream to its Python, one JSON object back.

A device gets a small program on the command line of its Python, and a tar archive with the files
on stdin. It unpacks into a folder of its own, runs the script there, answers with JSON and leaves
nothing behind but what the script itself puts elsewhere.
"""

import io
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import tenacity

from mlflow_compress.base.children import TooMuchError, run_bounded
from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import ConfigError, UnreachableError
from mlflow_compress.records import LOCAL

__all__ = ["CommandDevice", "Device", "LocalDevice", "SshDevice", "ask", "device_for"]

# Runs on the device, before anything of this project is there. What the runtime writes into the
# temporary folder goes with it. Python looks for modules in the current folder first, where
# anything may lie: that is taken off before the first import. The script has a process group, which
# ends with this program: when it is asked to end, when who started it is gone (the line was cut),
# and when all is too late.
_BOOTSTRAP = (
    "import sys\n"
    "sys.path[:]=[p for p in sys.path if p]\n"
    "import os,signal,subprocess,tarfile,tempfile,threading,time\n"
    "for n in (signal.SIGTERM,signal.SIGHUP): signal.signal(n,lambda *_:sys.exit(1))\n"
    "with tempfile.TemporaryDirectory(prefix='mlflow_compress_') as d:\n"
    " parent,until=os.getppid(),time.time()+LIMIT\n"
    " tarfile.open(fileobj=sys.stdin.buffer,mode='r|').extractall(d)\n"
    " env=dict(os.environ,TMPDIR=d)\n"
    " p=subprocess.Popen([sys.executable,'SCRIPT']+sys.argv[1:],cwd=d,env=env,\n"
    "  start_new_session=True)\n"
    " def end():\n"
    "  try: os.killpg(p.pid,signal.SIGKILL)\n"
    "  except OSError: pass\n"
    " def watch():\n"
    "  while os.getppid()==parent and time.time()<until: time.sleep(1)\n"
    "  end()\n"
    " threading.Thread(target=watch,daemon=True).start()\n"
    " try: code=p.wait()\n"
    " finally: end()\n"
    "sys.exit(code)\n"
)
_LATER = 5
"""Seconds after the time limit here that the device gives up by itself."""

_MOST_ANSWER = 64 << 20
"""Bytes that a device may write; ten thousand rounds are about 12 MB."""

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

    name: str = LOCAL
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
        # without a shell in between, so that it sees when the line is cut
        remote = f"exec {shlex.join([self.python, *arguments])}"
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


def device_for(measured_on: str, key: str = "measured_on") -> Device:
    """Return the device behind a target's ``measured_on``.

    Args:
        measured_on: ``local``, ``ssh://user@host:2222?python=/opt/venv/bin/python``, or
            ``cmd:docker exec -i box``.
        key: what the address is called where it stands, for the message.

    Raises:
        ConfigError: the address is not of that form.
    """
    if measured_on == LOCAL:
        return LocalDevice()
    if measured_on.startswith("cmd:"):
        try:
            template = tuple(shlex.split(measured_on.removeprefix("cmd:")))
        except ValueError as error:
            raise ConfigError(f"{key} {measured_on!r}: {error}") from None
        if not template:
            raise ConfigError(f"{key} {measured_on!r}: the command is empty")
        return CommandDevice(measured_on, template)
    try:
        parts = urlsplit(measured_on)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{key} {measured_on!r}: {error}") from None
    host = parts.hostname or ""
    # A host that began with a dash would be an option to ssh.
    if parts.scheme != "ssh" or not host or host.startswith("-") or parts.path.strip("/"):
        raise ConfigError(f"{key} {measured_on!r}: must be local, ssh://user@host[:port] or cmd:…")
    if parts.password is not None:
        raise ConfigError(
            f"{key} 'ssh://{parts.username}:…@{host}': a password in an address is not used, and "
            "would stand in records: give ssh a key"
        )
    query = parse_qs(parts.query)
    if set(query) - {"python"}:
        raise ConfigError(f"{key} {measured_on!r}: only ?python=… is known")
    user = f"{parts.username}@" if parts.username else ""
    python, *more = query.get("python", ["python3"])
    if more:
        raise ConfigError(f"{key} {measured_on!r}: ?python=… is given twice: keep one")
    return SshDevice(measured_on, user + host, port, python)


def ask(
    device: Device,
    script: Path,
    files: Mapping[str, bytes],
    arguments: Sequence[str],
    timeout: float,
    *,
    attempts: int = _ATTEMPTS,
) -> dict[str, Any]:
    """Run a script on a device, in a folder of its own that holds the files, and return its answer.

    Args:
        device: where.
        script: stands alone, and prints one JSON object as the last line of its stdout.
        files: content by name.
        arguments: the script's command line.
        timeout: seconds for each attempt.
        attempts: how often what may pass is tried. More than one only where the script may run
            twice: an attempt can fail after the script is done.

    Raises:
        UnreachableError: the device cannot be reached, is too slow, or the script dies.
    """
    # The script comes last: of a stream that was cut, it is missing.
    stream = _archive({**files, script.name: script.read_bytes()})
    bootstrap = _BOOTSTRAP.replace("SCRIPT", script.name)
    bootstrap = bootstrap.replace("LIMIT", f"{timeout + _LATER:g}")
    command = device.command(["-c", bootstrap, *arguments])
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, _DeviceFailed) and not error.final
        ),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    try:
        return retrying(_once, command, stream, timeout)
    except _DeviceFailed as error:
        raise UnreachableError(f"device {device.name}: {error}") from None


def _once(command: Sequence[str], stream: bytes, timeout: float) -> dict[str, Any]:
    try:
        done = run_bounded(command, stream, timeout=timeout, most=_MOST_ANSWER)
    except subprocess.TimeoutExpired:
        raise _DeviceFailed(f"no answer within {timeout:g} s") from None
    except TooMuchError:
        raise _DeviceFailed(
            f"it wrote more than {_MOST_ANSWER >> 20} MiB where one line was asked for: look what "
            f"{command[0]} prints there",
            final=True,
        ) from None
    except OSError as error:
        raise _DeviceFailed(f"{command[0]}: {error.strerror or error}", final=True) from None
    lines = done.err.decode(errors="replace").strip().splitlines()
    said = lines[-1].strip() if lines else f"exit code {done.code}"
    if done.code != 0:
        if _MISSING in said:
            raise _DeviceFailed(f"{said} ({_INSTALL})", final=True)
        final = any(text in line for text in _FINAL for line in lines)
        by_ssh = done.code == _SSH_FAILED and command[0] == "ssh"
        what = "ssh: " if by_ssh and not said.startswith("ssh:") else ""
        raise _DeviceFailed(f"{what}{said}", final=final)
    try:
        answer = parse_json(done.out.decode(errors="replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise _DeviceFailed("the script gave no answer") from None
    if not isinstance(answer, dict):
        raise _DeviceFailed(f"the script answered {str(answer)[:80]!r}")
    return answer


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
