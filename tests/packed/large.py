"""A model above 2 GB, from file to file and back: ``make large`` (minutes, 7 GB of disk).

Every step runs in a process of its own, whose peak of anonymous memory is its own (files that are
mapped, the decoded weights of ``load`` among them, are the system's to drop). Fails if a step
holds the model in memory, or anything comes back other than it was.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

SIDE = 8192
FLOATS, INTEGERS = 7, 11
BLOCK = 1 << 22


def build(folder: Path) -> None:
    """Seven layers of float32 and eleven of int8, 8192 x 8192: 2.6 GB, written as they are made."""
    rng = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 4096])
    offset = 0
    with (folder / "plain.onnx.data").open("wb") as file:
        for layer in range(FLOATS + INTEGERS):
            quantized = layer >= FLOATS
            name = f"layer{layer}"
            for _ in range(SIDE * SIDE // BLOCK):
                block = rng.standard_normal(BLOCK, np.float32)
                if quantized:
                    # what quantizing gives, 6 bits a weight or so
                    made = np.clip(np.rint(block * 20), -127, 127).astype(np.int8)
                else:
                    made = block * np.float32(0.01)
                file.write(made.tobytes())
            size = SIDE * SIDE * (1 if quantized else 4)
            kind = TensorProto.INT8 if quantized else TensorProto.FLOAT
            tensor = TensorProto(name=name, data_type=kind, dims=[SIDE, SIDE])
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", file.name), ("offset", offset), ("length", size)):
                text = Path(entry).name if key == "location" else str(entry)
                tensor.external_data.add(key=key, value=text)
            tensors.append(tensor)
            offset += size
            weight = name
            if quantized:
                weight = f"{name}_float"
                nodes.append(helper.make_node("DequantizeLinear", [name, "scale"], [weight]))
            nodes.append(helper.make_node("MatMul", [value, weight], [f"y{layer}"]))
            value = f"y{layer}"
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIDE])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, SIDE])],
        [*tensors, scale],
    )
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "plain.onnx").write_bytes(model.SerializeToString())


def step_pack(folder: Path) -> None:
    from mlflow_compress import packed

    packed.pack_file(folder / "plain.onnx", folder / "packed.onnx")


def step_inspect(folder: Path) -> None:
    from mlflow_compress import packed

    info = packed.inspect(folder / "packed.onnx")
    before = sum(tensor.bytes_before for tensor in info.tensors)
    print(f"{before:,} bytes of weights in a file of {info.file_bytes:,}")


def step_verify(folder: Path) -> None:
    from mlflow_compress import packed

    packed.verify(folder / "packed.onnx")


def step_unpack(folder: Path) -> None:
    from mlflow_compress import packed

    packed.unpack_file(folder / "packed.onnx", folder / "again.onnx")


def step_compare(folder: Path) -> None:
    """Every initializer of both models, mapped, bit by bit."""
    both = [onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in NAMES]
    assert len(both[0].graph.initializer) == len(both[1].graph.initializer)
    total = 0
    for old, new in zip(*(model.graph.initializer for model in both), strict=True):
        assert (old.name, old.data_type, old.dims) == (new.name, new.data_type, new.dims)
        if old.data_location != TensorProto.EXTERNAL:
            assert old == new
            continue
        views = [mapped(folder, tensor) for tensor in (old, new)]
        for at in range(0, len(views[0]), BLOCK):
            assert np.array_equal(*(view[at : at + BLOCK] for view in views)), old.name
        total += len(views[0])
    print(f"{total:,} bytes are equal")
    assert total > 1 << 31


NAMES = ("plain", "again")


def mapped(folder: Path, tensor: TensorProto) -> np.ndarray:
    where = {entry.key: entry.value for entry in tensor.external_data}
    return np.memmap(
        folder / where["location"],
        np.uint8,
        "r",
        offset=int(where.get("offset", 0)),
        shape=int(where["length"]),
    )


def step_plain(folder: Path) -> None:
    """What onnxruntime makes of the model without us; and its memory, to compare with."""
    run(folder, "plain")


def step_load(folder: Path) -> None:
    run(folder, "packed")


def run(folder: Path, name: str) -> None:
    from mlflow_compress import packed

    x = np.random.default_rng(1).standard_normal((1, SIDE)).astype(np.float32)
    session = packed.load(folder / f"{name}.onnx", threads=1)
    np.save(folder / f"{name}.npy", session.run(None, {"x": x})[0])


# most anonymous memory of each step, in GB; the model takes 2.62, packed 2.15
STEPS = {
    "pack": 2.6,
    "inspect": 2.0,
    "verify": 1.0,
    "unpack": 1.0,
    "compare": 0.5,
    "plain": None,
    "load": None,  # no more than "plain", and a little
}


class Anonymous:
    """The most memory of this process, in GB, that no file stands behind; sampled."""

    def __init__(self) -> None:
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1e6)
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    if options.step:
        start, memory = time.monotonic(), Anonymous()
        globals()[f"step_{options.step}"](options.folder)
        print(json.dumps([time.monotonic() - start, memory.peak]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        build(folder)
        peaks: dict[str, float] = {}
        for step in STEPS:
            command = [sys.executable, __file__, "--folder", folder, "--step", step]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            *said, last = done.stdout.splitlines()
            seconds, peak = json.loads(last)
            limit, peaks[step] = STEPS[step], peak
            print(f"{step:8} {seconds:6.1f} s  {peak:5.2f} GB  {' '.join(said)}", flush=True)
            assert limit is None or peak < limit, f"{step} takes {peak} GB, limit {limit}"
        assert peaks["load"] < peaks["plain"] + 0.3, peaks
        plain, packed = (np.load(folder / f"{name}.npy") for name in ("plain", "packed"))
        assert np.isfinite(plain).all() and np.array_equal(plain, packed)
        print("outputs are equal")


if __name__ == "__main__":
    main()
