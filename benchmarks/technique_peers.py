"""What ``benchmarks/techniques.py`` has beside ours: int8 by onnxruntime and by Olive, zipped."""

import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from threadpoolctl import threadpool_limits

from mlflow_compress import measure
from mlflow_compress.measure import Dataset
from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.graph import raise_opset


def int8(model: ModelProto, data: Dataset) -> tuple[bytes, str]:
    """Return static QDQ int8 by onnxruntime as a file, per channel where that works, and which."""
    with threadpool_limits(1):
        try:
            return _int8(model, data, True), "per channel"
        except Exception:  # noqa: BLE001 - magika: "The truth value of an array ..."
            return _int8(model, data, False), "per tensor, per channel fails"


def _int8(model: ModelProto, data: Dataset, per_channel: bool, count: int = 64) -> bytes:

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.next = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.next >= min(count, data.rows):
                return None
            self.next += 1
            return {k: a[self.next - 1 : self.next] for k, a in data.inputs.items()}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, made = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "made"))
        onnx.save(raise_opset(normalize(model), 13), plain)  # the first with scales per channel
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
        except Exception:  # noqa: BLE001 - it is optional, and fails on some models
            ready = plain
        quantize_static(
            ready, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel
        )
        measure.open_session(made)  # per channel can make what onnxruntime does not load
        return made.read_bytes()


def olive_int8(python: Path, model: ModelProto, data: Dataset) -> tuple[bytes, str]:
    """Return static int8 by Olive as a file, as :func:`int8`; run in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, inputs, made = (Path(folder, name) for name in ("in.onnx", "rows.npz", "out.onnx"))
        onnx.save(raise_opset(normalize(model), 13), source)
        np.savez(inputs, **data.head(64).inputs)
        script = Path(__file__).parent / "olive_int8.py"
        done = subprocess.run(
            [python, script, source, inputs, made], capture_output=True, text=True, cwd=folder
        )
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            causes = [line for line in lines if re.match(r"\S+(Error|Exception): ", line)]
            raise RuntimeError((causes or lines)[-1])
        measure.open_session(made)
        return made.read_bytes(), done.stdout.strip().splitlines()[-1]


def zipped(data: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("model.onnx", data)
        return file.tell()
