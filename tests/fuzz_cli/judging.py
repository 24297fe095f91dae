"""Says what a call of the command line must not leave behind: on its streams, in files, in runs."""

import io
import itertools
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from mlflow_compress import packed
from mlflow_compress.cli.main import EXIT_CODES
from tests.fuzz_cli.examples import Example

__all__ = ["HANG_SECONDS", "Done", "States", "findings_of", "half_done", "half_written"]

States = dict[str, tuple[int, ...]]
"""What changes as soon as a file is written or replaced, by the file's name."""

HANG_SECONDS = 60.0
"""A command that a person waits for longer, on a project of this size, hangs."""

_STORE = ("mlflow.db", "artifacts/", "mlruns/", "mlartifacts/", "cache/", "checkpoints/", "queue/")
"""Where records are kept: what is written there stays."""

_NEVER = (
    "Traceback (most recent call last)",
    "this should not happen",
    "Exception ignored",
    "Segmentation fault",
    "terminate called",
    "Fatal Python error",
)
_NOISE = re.compile(r"\[[EW]:onnxruntime.*|^\S+\.py:\d+: \w*Warning: .*", re.MULTILINE)
"""What libraries write beside the error; a person can do nothing about it."""


@dataclass(frozen=True)
class Done:
    """What a call left behind."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False


def findings_of(
    example: Example, done: Done, before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:  # fmt: skip
    """Yield what must not be, of what a call said and of the files of its project."""
    text = done.out + done.err
    if done.hung:
        yield f"hang: {HANG_SECONDS:.0f} s"
        return
    if done.hung:
        yield f"hang: {HANG_SECONDS:.0f} s"
        return
    if done.code not in EXIT_CODES:
        yield f"exit code {done.code} is not documented"
    if example.situation == "closed output":
        text = done.err
    for word in _NEVER:
        if word in text:
            yield f"{word}: {_last_line(text, word)}"
    if found := _NOISE.search(done.err):
        yield f"noise: {found.group()}"
    lines = [line for line in done.err.splitlines() if line.lower().startswith("error: ")]
    if len(lines) > 1:
        yield f"several error lines: {lines[:3]}"
    if lines and not done.code:
        yield f"an error with exit code 0: {lines[0]}"
    if lines and lines[0].startswith("error") and len(lines[0]) > 3000:  # "Error: " is click's
        yield f"an error of {len(lines[0])} characters: {lines[0][:80]}"
    if done.code and not lines and not text.strip() and example.situation != "closed output":
        yield f"exit code {done.code} without a word"
    if example.situation != "closed output":
        yield from _untrue_json(example, done)
    yield from _odd_files(example, done, before, after)


def _last_line(text: str, word: str) -> str:
    """Return what tells one fault from another."""
    lines = text[text.index(word) :].splitlines()
    if word.startswith("Traceback"):
        ours = [line.strip() for line in lines if "mlflow_compress/" in line]
        ends = [line for line in lines[1:] if line and not line.startswith((" ", "Traceback"))]
        return f"{ends[0][:200] if ends else ''} @ {ours[-1][-90:] if ours else ''}"
    return lines[0][:300]


def _untrue_json(example: Example, done: Done) -> Iterator[str]:
    wants = "--json" in example.argv and "--" not in example.argv
    if wants and done.code == 0 and "--help" not in example.argv:
        try:
            json.loads(done.out)
        except ValueError:
            yield f"--json printed no JSON: {done.out[:100]!r}"


def _odd_files(
    example: Example, done: Done, before: Mapping[str, tuple[int, ...]],
    now: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:  # fmt: skip
    wanted = _named(example.argv, "-o", "--output")
    folders = _named(example.argv, "--queue")
    for name in sorted(before.keys() | now.keys()):
        kept = name.startswith(_STORE) or name.endswith(".db") or Path(name).parts[0] in folders
        if kept or before.get(name) == now.get(name):
            continue
        if name not in now or (
            name in before and not ("--force" in example.argv and name in wanted)
        ):
            yield f"a file of the user's was {'changed' if name in now else 'deleted'}: {name}"
        elif name not in wanted:
            yield f"left behind: {name}"
        elif done.code not in (0, 3) and example.situation != "closed output":
            yield f"written although it ended with {done.code}: {name}"


def _named(argv: tuple[str, ...], *options: str) -> set[str]:
    """Return the values that options have, as paths."""
    pairs = itertools.pairwise(argv)
    return {os.path.normpath(value) for option, value in pairs if option in options}


def half_written(example: Example, done: Done, project: Path) -> Iterator[str]:
    """Yield the files that were said to be written and are not whole."""
    if done.code not in (0, 3) or example.argv[0] not in ("pack", "unpack", "compress", "report"):
        return
    for name in _named(example.argv, "-o", "--output"):
        path = project / name
        if not path.is_file() or path.is_symlink() or "-h" in example.argv:
            continue
        data = path.read_bytes()
        if example.argv[0] == "report":
            whole = data.rstrip().endswith(b"</html>")
        else:
            whole = _can_be_read(data)
        if not whole:
            yield f"{example.argv[0]} wrote what cannot be read: {name}"


def _can_be_read(data: bytes) -> bool:
    child = os.fork()  # a model that is odd may end its reader
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            model = onnx.load(io.BytesIO(data))
            if packed.is_packed(model):
                packed.verify(model)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def half_done(example: Example, project: Path, temporary: Path) -> Iterator[str]:
    """Yield what is left of a work that was begun: files, runs, versions."""
    left = sorted({path.name for path in temporary.iterdir()} - {".ses"})  # onnxruntime's
    if left:
        yield f"left in the temporary folder: {left[0]}"
    if example.situation in ("full disk", "read-only store", "locked store", "no files left"):
        return
    try:
        store = sqlite3.connect(f"file:{project}/mlflow.db?mode=ro", uri=True)
        running = store.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
        versions = store.execute(
            "select count(*) from model_versions where status = 'PENDING_REGISTRATION'"
        ).fetchone()[0]
        store.close()
    except sqlite3.Error:
        return
    if running or versions:
        yield f"left half done: {running} runs are running, {versions} versions are pending"
