"""The script that keeps models on a device: one JSON object on stdout.

It stands alone: Python 3.8 is all that it needs to put, list and remove; numpy and onnxruntime
to run a model, and ``mlflow_compress.packed`` for one in the compact profile.

    <root>/<name>/current -> <version>            a link, replaced in one step
    <root>/<name>/<version>/model.onnx
    <root>/<name>/<version>/manifest.json         what it is, its sha256, what it replaced

A version's folder gets its manifest before anything else. Only folders that carry one are ever
changed or removed, and of these only the files named here: what else lies there is somebody's.

``python shelf.py`` does what ``told.json`` beside it says, with the ``model.onnx`` or
``inputs.npz`` beside it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CURRENT = "current"
MODEL = "model.onnx"
MANIFEST = "manifest.json"
PARTS = {MODEL: ".model.onnx.part", MANIFEST: ".manifest.json.part"}
TYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
TYPES.update({f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32)})
TYPES.update({"int64": "int64", "uint64": "uint64"})


class RefusedError(Exception):
    """What was told cannot be done; ``code`` says whether something is there or missing."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let one process at a time change what is kept under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(path: Path) -> str:
    """Return a file's sha256, or nothing when there is no file."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
    except FileNotFoundError:
        return ""
    return found.hexdigest()


def current(home: Path) -> str | None:
    """Return the name of the running version's folder, None when nothing runs."""
    try:
        return os.readlink(home / CURRENT)  # noqa: PTH115 - Path.readlink is of Python 3.9
    except FileNotFoundError:
        return None
    except OSError:
        raise RefusedError(f"{home / CURRENT} is no link: not made by a deployment") from None


def running(home: Path) -> str:
    """Return the name of the running version's folder."""
    found = current(home)
    if found is None:
        raise RefusedError(f"there is no deployment {home.name!r} in {home.parent}", "missing")
    return found


def running_folder(home: Path) -> Path:
    """Return the running version's folder.

    Raises:
        RefusedError: it is none of a deployment's.
    """
    name = running(home)
    if not is_bare(name) or not is_ours(home / name):
        raise RefusedError(f"{home} is not made by a deployment, or damaged")
    return home / name


def manifest(folder: Path) -> dict[str, Any]:
    """Return what is known of a version; nothing when its manifest is missing or damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_ours(folder: Path) -> bool:
    """Whether a folder is a version's: it carries the manifest of one.

    A manifest that is damaged is taken for one where nothing but a version's files is beside it.
    """
    if folder.is_symlink() or not (folder / MANIFEST).is_file():
        return False
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {path.name for path in folder.iterdir()} <= {*PARTS, *PARTS.values()}
    return isinstance(found, dict) and {"sha256", "delivery"} <= found.keys()


def is_bare(name: Any) -> bool:
    """Whether this names something in a folder, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


def own(home: Path) -> Path:
    """Return the folder of a deployment, to be changed.

    Raises:
        RefusedError: it is there, and is none of a deployment.
    """
    if not home.is_symlink() and not home.exists():
        return home
    name = current(home) if home.is_dir() and not home.is_symlink() else ""
    if name is None or (is_bare(name) and not (home / name).exists()):
        # A create or a delete may have been cut off here.
        left = [path for path in home.iterdir() if path.name != CURRENT]
        good = all(is_ours(path) or is_unfinished(path) for path in left)
    else:
        good = is_bare(name) and is_ours(home / name)
    if not good:
        raise RefusedError(
            f"{home} is there already, and not made by a deployment: take another name"
        )
    return home


def is_unfinished(path: Path) -> bool:
    """Whether this is what is left where a version was begun and nothing of it written."""
    if path.is_symlink():
        return path.name == f".{CURRENT}.new"
    return path.is_dir() and {file.name for file in path.iterdir()} <= {PARTS[MANIFEST]}


def drop(folder: Path) -> None:
    """Remove a version's files, and its folder unless somebody has put something there."""
    with contextlib.suppress(OSError):
        # The manifest last: as long as it is there, the rest is found again.
        for name in (PARTS[MODEL], MODEL, PARTS[MANIFEST], MANIFEST):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        folder.rmdir()


def sync(folder: Path) -> None:
    """Have the disk keep what a folder lists."""
    handle = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(content: io.BufferedIOBase, path: Path, expected: str = "") -> None:
    """Write a file whole or not at all; compare what was written with its sha256."""
    part = path.with_name(PARTS[path.name])
    try:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        with part.open("xb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        found = digest(part) if expected else ""
        if found != expected:
            raise RefusedError(
                f"{path.name} arrived with sha256 {found[:12]}…, {expected[:12]}… was sent: "
                "nothing was changed, try again"
            )
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def switch(home: Path, version: str) -> None:
    """Make ``current`` point to a version, in one step."""
    link = home / f".{CURRENT}.new"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(version)
    link.replace(home / CURRENT)
    sync(home)


def place(told: dict[str, Any], home: Path) -> dict[str, Any]:
    """Put a version beside those that are there, check it, switch to it, drop the oldest."""
    before = current(own(home))
    if before is not None and manifest(home / before).get("delivery") == told["delivery"]:
        return describe(home)  # the attempt before got this far; only its answer was lost
    if told["create"] and before is not None:
        raise RefusedError(
            f"deployment {home.name!r} is already in {home.parent}: update it, or delete it first",
            "exists",
        )
    if not told["create"]:
        running(home)
    folder = home / told["version_folder"]
    made = not folder.exists()
    if not (made or is_ours(folder) or is_unfinished(folder)):
        raise RefusedError(f"{folder} is there already, and not made by a deployment: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    known = dict(told["manifest"], delivery=told["delivery"], replaced=before)
    if folder.name == before:
        known["replaced"] = manifest(folder).get("replaced")
    try:
        if made:
            describe_as(known, folder)
        with Path(MODEL).open("rb") as received:
            put(received, folder / MODEL, known["sha256"])
        if told["check"]:
            known["checked"] = opens(folder / MODEL, known)
        describe_as(known, folder)
        sync(folder)
        switch(home, folder.name)
    except BaseException:
        if made and current(home) != folder.name:
            drop(folder)
        raise
    prune(home, told["keep"])
    return describe(home)


def describe_as(known: dict[str, Any], folder: Path) -> None:
    """Write a version's manifest."""
    put(io.BytesIO(json.dumps(known, indent=1, sort_keys=True).encode()), folder / MANIFEST)


def opens(path: Path, known: dict[str, Any]) -> bool:
    """Open a model before anything is switched to it; False where no runtime is to do it with."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    open_model(path, known)
    return True


def prune(home: Path, keep: int) -> None:
    """Remove all versions but the running one and those before it, ``keep`` in all."""
    kept: list[str] = []
    name = current(home)
    while is_bare(name) and name not in kept and len(kept) < keep:
        kept.append(str(name))
        name = manifest(home / str(name)).get("replaced")
    for folder in home.iterdir():
        if folder.name not in kept and is_ours(folder):
            drop(folder)


def earlier(home: Path) -> str | None:
    """Return the version that the running one replaced, if it is still there."""
    name = manifest(running_folder(home)).get("replaced")
    there = is_bare(name) and is_ours(home / str(name)) and (home / str(name) / MODEL).is_file()
    return str(name) if there else None


def rollback(home: Path) -> dict[str, Any]:
    """Switch to the version before."""
    name = earlier(own(home))
    if name is None:
        raise RefusedError(f"deployment {home.name!r} has no version before the running one")
    intact(home / name)
    switch(home, name)
    return describe(home)


def intact(folder: Path) -> dict[str, Any]:
    """Return a version's manifest after comparing its model with it."""
    known = manifest(folder)
    if not known or digest(folder / MODEL) != known.get("sha256"):
        raise RefusedError(f"{folder / MODEL} is damaged: update the deployment")
    return known


def describe(home: Path) -> dict[str, Any]:
    """Return what is known of a deployment, and whether its model is as it was sent."""
    folder = running_folder(home)
    known = manifest(folder)
    path = str(home / CURRENT / MODEL)
    good = bool(known) and digest(folder / MODEL) == known.get("sha256")
    told = {"name": home.name, "path": path, "folder": folder.name, "previous": earlier(home)}
    known.pop("replaced", None)
    known.pop("delivery", None)
    return dict(known, intact=good, **told)


def delete(home: Path) -> dict[str, Any]:
    """Remove a deployment: out of sight in one step, then from the disk; what is others' stays."""
    running(own(home))
    (home / CURRENT).unlink()
    for folder in list(home.iterdir()):
        if is_ours(folder):
            drop(folder)
    with contextlib.suppress(OSError):
        home.rmdir()
    return {"deleted": home.name}


def open_model(path: Path, known: dict[str, Any]) -> Any:
    """Open a model with onnxruntime, or with this project's runtime if it is packed compactly."""
    providers = known.get("providers") or ["CPUExecutionProvider"]
    try:
        if known.get("profile") == "compact":
            from mlflow_compress import packed

            return packed.load(str(path), providers=providers, threads=known.get("threads"))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = known.get("threads") or 0
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except ImportError as error:
        needed = "mlflow-compress" if known.get("profile") == "compact" else "onnxruntime"
        raise RefusedError(
            f"a model of the profile {known.get('profile')} needs {needed} on the device ({error})"
        ) from None
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base class
        raise RefusedError(f"the device cannot open the model: {line(error)}") from None


def line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def fitted(array: Any, wanted: Any) -> Any:
    """Return an array as the type of an input; what came as JSON knows two types of numbers."""
    import numpy

    kind = wanted.type[len("tensor(") : -1]
    if kind == "string":
        return array.astype(object)
    numeric = array.dtype.kind in "biuf"
    cast = array.astype(TYPES[kind]) if numeric and kind in TYPES else None
    if cast is None or (cast.dtype.kind in "biu" and not numpy.array_equal(cast, array)):
        raise RefusedError(f"input {wanted.name!r} takes {wanted.type}, got {array.dtype}")
    return cast


def feed(arrays: list[Any], names: list[str], table: bool, inputs: list[Any]) -> dict[str, Any]:
    """Give each input of a model its array."""
    import numpy

    known = [value.name for value in inputs]
    if len(known) == 1 and (not names or (table and set(names) != set(known))):
        # a bare array, or a table whose columns are the features of the only input
        joined = arrays[0] if not names else numpy.stack(arrays, axis=1)
        arrays, names = [joined], known
    if set(names) != set(known):
        given = ", ".join(names) if names else "one array without a name"
        raise RefusedError(f"the model's inputs are {', '.join(known)}; got {given}")
    by_name = dict(zip(names, arrays))  # noqa: B905 - Python 3.8
    return {value.name: fitted(by_name[value.name], value) for value in inputs}


def predict(told: dict[str, Any], home: Path) -> dict[str, Any]:
    """Run the running version on ``inputs.npz``; return its outputs as a stored npz."""
    folder = running_folder(home)
    known = intact(folder)
    session = open_model(folder / MODEL, known)
    import numpy

    with numpy.load("inputs.npz", allow_pickle=False) as stored:
        arrays = [stored[f"arr_{i}"] for i in range(len(stored.files))]
    fed = feed(arrays, told["names"], told["table"], session.get_inputs())
    try:
        found = session.run(None, fed)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base class
        raise RefusedError(f"the device cannot run the model: {line(error)}") from None
    arrays = [a.astype(str) if a.dtype == object else a for a in map(numpy.asarray, found)]
    buffer = io.BytesIO()
    numpy.savez(buffer, *arrays)
    names = [value.name for value in session.get_outputs()]
    return {"names": names, "npz": base64.b64encode(buffer.getvalue()).decode()}


def listed(root: Path) -> dict[str, Any]:
    """Describe every deployment."""
    homes = sorted(root.iterdir()) if root.is_dir() else []
    homes = [home for home in homes if home.name[0] != "." and (home / CURRENT).is_symlink()]
    homes = [home for home in homes if is_ours(home / str(current(home)))]
    return {"deployments": [describe(home) for home in homes]}


def do(told: dict[str, Any]) -> dict[str, Any]:
    """Do what was told."""
    root = Path(told["root"]).expanduser()
    task = told["task"]
    if task == "list":
        return listed(root)
    home = root / told["name"]
    if task == "get":
        return describe(home)
    if task == "predict":
        return predict(told, home)
    if task != "place":
        running(home)  # nothing is made where nothing is
    with locked(root):
        if task == "place":
            return place(told, home)
        return rollback(home) if task == "rollback" else delete(home)


def main() -> None:
    """Do what ``told.json`` says and print one JSON object."""
    try:
        answer = do(json.loads(Path("told.json").read_text()))
    except RefusedError as error:
        answer = {"error": str(error), "code": error.code}
    except OSError as error:
        answer = {"error": line(error), "code": ""}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
