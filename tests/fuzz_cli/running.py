"""Runs one example in a process of its own, and says what must not be."""

import atexit
import contextlib
import gc
import importlib
import logging
import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow_compress.cli.main import main
from tests.fuzz_cli.examples import Example
from tests.fuzz_cli.judging import (
    HANG_SECONDS,
    Done,
    States,
    findings_of,
    half_done,
    half_written,
)
from tests.fuzz_cli.project import make_project

__all__ = ["Place", "findings"]

_MOST_MEMORY = 8 << 30


class Place:
    """A folder with the project, put back as it was before each example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.temporary = folder / "temporary"
        self._template = folder / "template"
        self.project.mkdir(parents=True)
        child = os.fork()  # so that no session, thread or connection is there to be inherited
        if not child:
            code = 1
            try:
                make_project(self.project)
                (folder / "modules.txt").write_text("\n".join(sys.modules))
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the project of the examples could not be made")
        for name in (folder / "modules.txt").read_text().split():
            with contextlib.suppress(Exception):
                importlib.import_module(name)  # once, and not in every call again
        gc.freeze()  # so that no call copies all that was imported, only to look through it
        shutil.copytree(self.project, self._template)
        store = sqlite3.connect(self._template / "mlflow.db")
        self.search = store.execute(
            "select value from tags where key = 'mlflow.parentRunId' limit 1"
        ).fetchone()[0]
        store.close()
        names = sorted(self._names(self._template))
        self.artifacts = tuple(name for name in names if name.startswith("artifacts/"))

    def _restore(self) -> None:
        for folder in (self.project, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.mkdir()
        shutil.copytree(self._template, self.project, copy_function=_placed)

    def _change(self, example: Example) -> None:
        for name, content in example.files.items():
            path = self.project / name
            if not path.parent.is_dir():  # an example of another run, whose models had other ids
                named = Path(name).name
                path = self.project / next(one for one in self.artifacts if one.endswith(named))
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == "folder":
                path.mkdir()
            elif content == "dangling":
                path.symlink_to("nothing-is-here")
            elif content == "fifo":
                os.mkfifo(path)
        if example.tags:
            store = sqlite3.connect(self.project / "mlflow.db")
            for key, value in example.tags.items():
                store.execute("update model_version_tags set value = ? where key like ?",
                              (value, f"{key}%"))  # fmt: skip
            store.commit()
            store.close()

    def before(self, example: Example) -> States:
        """Put the project back, change it as the example says, and return its files' states."""
        self._restore()
        self._change(example)
        return self.now()

    def now(self) -> States:
        """Return the states of the project's files."""
        return {name: _state(self.project / name) for name in self._names(self.project)}

    @staticmethod
    def _names(folder: Path) -> Iterator[str]:
        for path in folder.rglob("*"):
            if not path.is_dir() or path.is_symlink():
                yield str(path.relative_to(folder))


def _placed(source: str, to: str) -> None:
    """Put a file of the template in its place: a link, where it is never written to in place."""
    if source.endswith(("mlflow.db", ".bin")):  # external data with two names are refused
        shutil.copyfile(source, to)
    else:
        os.link(source, to)


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes as soon as a file is written or replaced."""
    found = path.lstat()
    return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns


def _called(example: Example, place: Place) -> Done:
    store = f"sqlite:///{place.project}/mlflow.db"
    words = {"STORE": store, "RUN": place.search}
    argv = [words.get(word, word) for word in example.argv]
    env = {key: words.get(value or "", value) for key, value in example.env.items()}
    pipes = [os.pipe(), os.pipe()]  # not files, which a disk that is full would end too
    started = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it is the command's
    child = os.fork()
    if not child:
        _be_the_command(argv, env, example.situation, place, [write for _, write in pipes])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for read, write in pipes:
        os.close(write)
        os.set_blocking(read, False)
    texts = [bytearray(), bytearray()]
    interrupt = _seconds_to_interrupt(example)
    hung = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        for (read, _), text in zip(pipes, texts, strict=True):
            text += _there(read)
        seconds = time.monotonic() - started
        if ended:
            break
        if interrupt is not None and seconds > interrupt:
            os.kill(child, signal.SIGINT)
            interrupt = None
        if seconds > HANG_SECONDS:
            hung = True
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the command left running
    for read, _ in pipes:
        os.close(read)
    out, err = (text.decode("utf-8", "replace") for text in texts)
    return Done(os.waitstatus_to_exitcode(status), out, err, seconds, hung)


def _seconds_to_interrupt(example: Example) -> float | None:
    """Return after how long Ctrl-C comes; what serves ends by nothing else."""
    if example.situation.startswith("Ctrl-C"):
        return float(example.situation.removeprefix("Ctrl-C after "))
    return 2.5 if example.argv[:2] == ("webhook", "serve") else None


def _there(pipe: int) -> bytes:
    """Return what a pipe holds."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, 1 << 16):
            parts.append(part)
    return b"".join(parts)


def _be_the_command(
    argv: list[str],
    env: dict[str, str | None],
    situation: str,
    place: Place,
    streams: list[int],
) -> None:
    """Be a fresh ``mlflow-compress``, as far as a forked process can; never return."""
    code = 70
    try:
        os.setsid()
        gc.callbacks.clear()  # hypothesis's
        os.chdir(place.project)
        for at, stream in enumerate(streams):
            os.dup2(stream, at + 1)
        if situation == "closed output":
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        encoding = "ascii" if situation == "ascii" else "utf-8"
        sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
            2, "w", encoding=encoding, errors="backslashreplace", closefd=False, buffering=1
        )
        _set_environment(env, place)
        _make_trouble(situation, place)
        sys.argv = ["mlflow-compress", *argv]
        code = _exit_code()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _set_environment(env: dict[str, str | None], place: Place) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "PYTEST"))]:
        del os.environ[name]
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(place.temporary),
        "XDG_CACHE_HOME": str(place.project / "cache"),
        "SECRET": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0",
    }
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    # set up when mlflow was imported, which a fresh command does after it has said how
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def _make_trouble(situation: str, place: Place) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    if situation == "full disk":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    elif situation == "no files left":
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
    elif situation == "folder gone":
        gone = place.temporary / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
    elif situation == "locked store":
        place.locked = sqlite3.connect(place.project / "mlflow.db")  # type: ignore[attr-defined]
        place.locked.execute("begin exclusive")  # type: ignore[attr-defined]
    elif situation == "read-only store":
        (place.project / "mlflow.db").chmod(0o444)


def _exit_code() -> int:
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own end is not the command's
    except SystemExit as leave:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        print(leave.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001, it is what is looked for
        import traceback

        traceback.print_exc()
        return 1
    return 0


def findings(example: Example, place: Place) -> tuple[list[str], Done]:
    """Run an example; return what must not be, and what the call left."""
    before = place.before(example)
    done = _called(example, place)
    found = [
        *findings_of(example, done, before, place.now()),
        *half_written(example, done, place.project),
        *half_done(example, place.project, place.temporary),
    ]
    return found, done
