"""Static int8 by Olive, in an environment of its own, for ``benchmarks/techniques.py``.

    /path/to/olive/bin/python olive_int8.py IN.onnx ROWS.npz OUT.onnx

Olive 0.13 runs with torch 2.13 and onnxruntime 1.32 when ``requests``, which it does not ask for,
is installed too.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"

import numpy as np
import torch
from olive.data.config import DataComponentConfig, DataConfig
from olive.data.registry import Registry
from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization


class Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Calibration inputs by name, row by row, with a label that nobody reads."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return min(len(array) for array in self.arrays.values())

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        return {name: array[index] for name, array in self.arrays.items()}, 0


def main() -> None:
    source, rows, out = map(Path, sys.argv[1:])
    with np.load(rows) as held:
        arrays = {name: held[name] for name in held.files}

    @Registry.register_dataset("calibration_rows")  # type: ignore[untyped-decorator]
    def calibration_rows(**_: Any) -> Rows:
        return Rows(arrays)

    data = DataConfig(
        name="calibration",
        type="DataContainer",
        load_dataset_config=DataComponentConfig(type="calibration_rows"),
        pre_process_data_config=DataComponentConfig(type="skip_pre_process"),
        post_process_data_config=DataComponentConfig(type="skip_post_process"),
        dataloader_config=DataComponentConfig(params={"batch_size": 1}),
    )

    def quantize(per_channel: bool) -> None:
        made = create_pass_from_dict(
            OnnxStaticQuantization,
            {"data_config": data, "per_channel": per_channel},
            disable_search=True,
            accelerator_spec=AcceleratorSpec("cpu", "CPUExecutionProvider"),
        )
        with tempfile.TemporaryDirectory() as folder:
            done = made.run(ONNXModelHandler(str(source)), str(Path(folder, "made.onnx")))
            shutil.copy(done.model_path, out)

    try:
        quantize(True)
        print("per channel")
    except Exception:  # noqa: BLE001 - as the benchmark does for onnxruntime itself
        quantize(False)
        print("per tensor, per channel fails")


if __name__ == "__main__":
    main()
