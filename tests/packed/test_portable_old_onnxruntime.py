"""Portable files on older onnxruntimes, each in an environment of its own."""

import json
import os
import subprocess

import numpy as np
import onnx
import onnxruntime
import packed_models
import portable_models as models
import pytest

from mlflow_compress import packed
from tests.environments import python_with

VERSIONS = ["1.20.1", "1.22.1"]

# Runs there: nothing of this project, nor onnx, is installed.
SCRIPT = """
import json, sys
import numpy as np
import onnxruntime

def outputs(path, x, **settings):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]

folder = sys.argv[1]
found = {"version": onnxruntime.__version__, "equal": {}}
basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
for name in sys.argv[2:]:
    x = np.load(f"{folder}/{name}.npy")
    plain = outputs(f"{folder}/{name}.plain.onnx", x)
    same = np.array_equal(plain, outputs(f"{folder}/{name}.packed.onnx", x))
    outputs(
        f"{folder}/{name}.packed.onnx",
        x,
        graph_optimization_level=basic,
        optimized_model_filepath=f"{folder}/{name}.optimised.onnx",
    )
    found["equal"][name] = same
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each kind, at an opset and IR version that these versions read, plain and packed."""
    folder = tmp_path_factory.mktemp("files")
    made = {kind: models.of_kind(kind, opset=20, ir_version=10) for kind in models.KINDS}
    made["opset13"] = models.chain(
        models.sparse((200, 300)), models.dense((300, 400)), opset=13, ir_version=8
    )
    made["mlp"] = packed_models.mlp(centroids=16)
    del made["mlp"].opset_import[:]
    made["mlp"].opset_import.add(domain="", version=20)
    for name, model in made.items():
        packed.save(model, folder / f"{name}.plain.onnx")
        packed.save(packed.pack(model, "portable"), folder / f"{name}.packed.onnx")
        np.save(folder / f"{name}.npy", models.x_for(model))
    return folder, sorted(made)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_onnxruntime_decodes_every_kind(version, files):
    folder, names = files
    assert onnxruntime.__version__ != version
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [python_with(f"onnxruntime=={version}"), script, folder, *names],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["version"] == version
    assert found["equal"] == dict.fromkeys(names, True)
    for name in names:
        left = onnx.load(folder / f"{name}.optimised.onnx")
        assert not models.kinds(left)
        used = {node.op_type for node in left.graph.node}
        assert used <= {"MatMul", "Gemm", "Relu", "Cast", "FusedGemm"}, (name, used)
