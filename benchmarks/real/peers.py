"""Static int8 by other tools, from the same calibration rows: what users would have else."""

import json
import logging
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import zstandard
from onnx import version_converter
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from real.cases import Case
from real.sessions import opened
from real.store import Store

_NNCF = ("torch==2.13.0", "nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0")
_OPSET = 13  # the first with scales per channel
_SCRIPT = Path(__file__).parents[1] / "nncf_int8.py"
_ZSTD_LEVEL = 19

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Made:
    """What a tool did: how, seconds of CPU time, or why there is no file."""

    how: str = ""
    seconds: float = 0.0
    error: str = ""


def make(case: Case, tool: str, store: Store) -> Made:
    """Make a tool's file, unless it is there; return what is kept of how that went."""
    out, notes = store.made(case.name, tool), store.made(case.name, tool, ".json")
    if notes.is_file():
        return Made(**json.loads(notes.read_text()))
    feeds = case.calibration(store)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time(), _children()
        try:
            plain = _raised(store.model(case.name), Path(folder))
            if tool == "nncf":
                how = _nncf(plain, feeds, out, case.transformer, store)
            else:
                how = _onnxruntime(plain, feeds, out)
            error = ""
        except Exception as raised:  # noqa: BLE001 - a peer that fails is a row of the table
            how, error = "", f"{type(raised).__name__}: {str(raised).strip()[-200:]}"
        seconds = time.process_time() - start[0] + _children() - start[1]
    made = Made(how, round(seconds, 1), error)
    notes.write_text(json.dumps(asdict(made), indent=1))
    return made


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def zipped(file: Path) -> int:
    """Return a file's bytes after zstd -19."""
    return len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(file.read_bytes()))


def _raised(source: Path, folder: Path) -> Path:
    """Return the model at an opset that has scales per channel, if it can be had.

    Weights in Constant nodes become initializers: NNCF leaves them as they are otherwise.
    """
    model = onnx.load(source)
    opset = max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        try:
            model = version_converter.convert_version(model, _OPSET)
        except Exception as raised:  # noqa: BLE001 - then as it is: some tools take it all the same
            logging.warning("%s stays at opset %d: %s", source.name, opset, raised)
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        if node.attribute[0].name == "value":
            node.attribute[0].t.name = node.output[0]
            model.graph.initializer.append(node.attribute[0].t)
            model.graph.node.remove(node)
    plain = folder / "plain.onnx"
    onnx.save(model, plain)
    return plain


def _as_it_came(plain: Path) -> Path:
    return plain


def _prepared(plain: Path) -> Path:
    """Return the model as onnxruntime's guide says to prepare it, as far as that works."""
    ready = plain.with_name("ready.onnx")
    for skip in (False, True):
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=skip)
            opened(ready)
            return ready
        except Exception as raised:  # noqa: BLE001 - it is optional, and fails on some models
            logging.warning("quant_pre_process: %s", raised)
    return plain


def _optimized(plain: Path) -> Path:
    """Return the model as onnxruntime simplifies it for any device."""
    basic = plain.with_name("basic.onnx")
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(basic)
    InferenceSession(str(plain), options)
    return basic


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Feeds) -> None:
        self.left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def _first(attempts: Sequence[tuple[str, Callable[[], None]]]) -> str:
    """Make attempts until one works; return which, or raise what the last one raised."""
    for name, attempt in attempts[:-1]:
        try:
            attempt()
            return name
        except Exception as raised:  # noqa: BLE001 - quantizers raise what they come across
            logging.warning("%s: %s", name, raised)
    name, attempt = attempts[-1]
    attempt()
    return name


def _onnxruntime(plain: Path, feeds: Feeds, out: Path) -> str:
    def quantize(prepare: Callable[[Path], Path], per_channel: bool) -> None:
        quantize_static(
            prepare(plain),
            out,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        opened(out)

    return _first(
        [
            ("per channel, prepared", lambda: quantize(_prepared, True)),
            ("per tensor, prepared", lambda: quantize(_prepared, False)),
            ("per channel, as it came", lambda: quantize(_as_it_came, True)),
            ("per tensor, as it came", lambda: quantize(_as_it_came, False)),
        ]
    )


def _nncf(plain: Path, feeds: Feeds, out: Path, transformer: bool, store: Store) -> str:
    def quantize(prepare: Callable[[Path], Path]) -> None:
        command = [_environment(store), _SCRIPT, prepare(plain), file.name, out]
        command += ["transformer"] if transformer else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            causes = [line for line in lines if re.match(r"\S+(Error|Exception)\b", line)]
            raise RuntimeError((causes or lines)[-1])
        opened(out)

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        named = {
            f"{k}/{name}": array for k, feed in enumerate(feeds) for name, array in feed.items()
        }
        np.savez(file, **named)
        preset = "transformer" if transformer else "default"
        return _first(
            [
                (f"{preset}, as it came", lambda: quantize(_as_it_came)),
                (f"{preset}, optimized", lambda: quantize(_optimized)),
                (f"{preset}, prepared", lambda: quantize(_prepared)),
            ]
        )


def _environment(store: Store) -> Path:
    """Return an interpreter that has NNCF, in an environment made once."""
    folder = store.root / "nncf"
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *_NNCF]
        subprocess.run(command, check=True)
    return python
