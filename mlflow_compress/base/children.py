"""Child processes: they end with whoever started them, and say no more than is kept."""

import contextlib
import errno
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Done", "TooMuchError", "end_group", "ending_with_parent", "run_bounded"]

_GRACE = 3.0
"""Seconds that a child has to clean up after itself before it is killed."""

_CHUNK = 1 << 16

# What a child is before it becomes the command. It is a program of its own, as nothing of ours may
# run between fork and exec: another thread may have held any lock, and nobody lets go of it there.
# 1 is Linux's PR_SET_PDEATHSIG. Python ignores SIGPIPE and SIGXFSZ, which would stay so.
_TIED = (
    "import ctypes,os,signal,sys\n"
    "ctypes.CDLL(None).prctl(1,int(signal.SIGTERM),0,0,0)\n"
    "if os.getppid()!=int(sys.argv[1]): sys.exit(1)\n"  # it ended before it was asked for
    "for n in (signal.SIGPIPE,signal.SIGXFSZ): signal.signal(n,signal.SIG_DFL)\n"
    "try: os.execv(sys.argv[2],sys.argv[3:])\n"
    "except OSError as e: sys.exit(sys.argv[2]+': '+e.strerror)\n"
)


@dataclass(frozen=True)
class Done:
    """What a child came to: its exit code, and all that it wrote."""

    code: int
    out: bytes
    err: bytes


class TooMuchError(Exception):
    """A child wrote more than is kept, and was ended."""


def ending_with_parent(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[str]:
    """Return a command that runs another, which gets SIGTERM when the thread that starts it ends.

    That thread has to live as long as the child. Where the system knows no such thing, it is the
    command itself.

    Args:
        command: what to run.
        environment: of the child, whose PATH is looked in; this process's when None.

    Raises:
        OSError: there is no such program.
    """
    if sys.platform != "linux" or not sys.executable:
        return list(command)
    path = (os.environ if environment is None else environment).get("PATH", os.defpath)
    program = shutil.which(command[0], path=path)
    if program is None:
        there = os.sep in command[0] and Path(command[0]).exists()
        number = errno.EACCES if there else errno.ENOENT
        raise OSError(number, os.strerror(number), command[0])
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
    return [*tied, str(Path(program).absolute()), *command]


def run_bounded(command: Sequence[str], data: bytes, *, timeout: float, most: int) -> Done:
    """Run a command in a process group of its own.

    Args:
        command: what to run.
        data: its stdin.
        timeout: seconds until it is ended, with its whole group.
        most: bytes of each, stdout and stderr, that it may write.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took too long.
        TooMuchError: it wrote too much.
    """
    end = time.monotonic() + timeout
    process = subprocess.Popen(
        ending_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        out, err = _talk(process.stdin, (process.stdout, process.stderr), data, end, most)
        code = process.wait(max(end - time.monotonic(), 0))
        return Done(code, out, err)
    except TimeoutError:
        raise subprocess.TimeoutExpired(command, timeout) from None
    finally:
        end_group(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


def _talk(
    stdin: IO[bytes], outputs: tuple[IO[bytes], IO[bytes]], data: bytes, end: float, most: int
) -> tuple[bytes, bytes]:
    """Write data and read both outputs to their end, whichever of them is ready."""
    said = {output: bytearray() for output in outputs}
    rest = memoryview(data)
    os.set_blocking(stdin.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(stdin, selectors.EVENT_WRITE)
        for output in outputs:
            waiting.register(output, selectors.EVENT_READ)
        while waiting.get_map():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in waiting.select(left):
                if key.fileobj is stdin:
                    rest = _feed(stdin, rest)
                    is_over = not rest
                else:
                    chunk = os.read(key.fd, _CHUNK)
                    kept = said[key.fileobj]  # type: ignore[index]
                    kept += chunk
                    is_over = not chunk
                    if len(kept) > most:
                        raise TooMuchError
                if is_over:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
    return bytes(said[outputs[0]]), bytes(said[outputs[1]])


def _feed(stdin: IO[bytes], rest: memoryview) -> memoryview:
    """Write what fits into the pipe and return the rest; nothing of it when nobody reads."""
    if not rest:
        return rest
    try:
        return rest[os.write(stdin.fileno(), rest[:_CHUNK]) :]
    except BlockingIOError:
        return rest
    except OSError:
        return rest[:0]


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a child that still runs, with the group that it leads: first asked to, then killed."""
    if process.poll() is not None:
        return
    for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started and left behind
