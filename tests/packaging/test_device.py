"""What a device does with a wheel, numpy, onnx and onnxruntime, and with nothing else."""

import json
import tarfile
import zipfile

import numpy as np
import pytest

from mlflow_compress import packed
from tests.packaging.building import ROOT, run
from tests.packed.packed_models import mlp

ABSENT = ["mlflow", "torch", "optuna", "click", "pydantic", "scipy", "rich", "plotly", "yaml"]

RUNTIME = """
import importlib.util, json, sys
import numpy as np
import onnx
from mlflow_compress import packed

folder, absent = sys.argv[1], sys.argv[2].split(",")
x = np.load(f"{folder}/x.npy")
plain, small = f"{folder}/plain.onnx", f"{folder}/compact.onnx"
outputs = [packed.load(path).run(None, {"x": x})[0] for path in (plain, small)]
packed.verify(small)
model = onnx.load(plain)
again = packed.pack(model)
print(json.dumps({
    "backend": packed.backend,
    "where": packed.__file__,
    "equal": bool(np.array_equal(*outputs)),
    "unpacked": packed.unpack(small) == model and packed.unpack(again) == model,
    "same bytes": packed.to_bytes(again) == open(small, "rb").read(),
    "loaded": sorted(set(absent) & set(sys.modules)),
    "importable": [name for name in absent if importlib.util.find_spec(name)],
}))
"""

ONNXRUNTIME = """
import json, sys
import numpy as np
import onnxruntime

folder = sys.argv[1]
x = np.load(f"{folder}/x.npy")
sessions = [onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("plain", "portable")]
outputs = [session.run(None, {"x": x})[0] for session in sessions]
print(json.dumps({
    "equal": bool(np.array_equal(*outputs)),
    "loaded": sorted({"onnx", "mlflow_compress"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model three ways, and a row for it."""
    folder = tmp_path_factory.mktemp("models")
    model = mlp(dims=(60, 40, 10))
    packed.save(model, folder / "plain.onnx")
    for profile in ("compact", "portable"):
        packed.save(packed.pack(model, profile), folder / f"{profile}.onnx")
    x = np.random.default_rng(0).standard_normal((3, 60)).astype(np.float32)
    np.save(folder / "x.npy", x)
    return folder


def found(done):
    return json.loads(done.stdout.splitlines()[-1])


def expect(got, backend, python):
    where = got.pop("where")
    assert where.startswith(str(python.parents[1])), where
    assert got == {
        "backend": backend,
        "equal": True,
        "unpacked": True,
        "same bytes": True,
        "loaded": [],
        "importable": [],
    }


def test_the_sdist_has_the_sources_of_the_extension(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    home = "mlflow_compress/packed/codec/c"
    sources = [path for path in (ROOT / home).iterdir() if path.suffix in (".c", ".h")]
    assert len(sources) >= 8
    assert {f"{home}/{path.name}" for path in sources} <= names


def test_a_wheel_of_the_sdist_has_the_extension_and_a_device_runs_it(wheel, install, models):
    names = zipfile.ZipFile(wheel).namelist()
    assert sum("packed/codec/_huffman" in name and name.endswith(".so") for name in names) == 1
    python = install(wheel)
    done = run(python, "-c", RUNTIME, models, ",".join(ABSENT), cwd=models)
    expect(found(done), "c", python)
    assert "C extension" not in done.stderr


def test_without_a_compiler_it_installs_and_says_once_that_numpy_runs(
    wheel_without_compiler, install, models
):
    names = zipfile.ZipFile(wheel_without_compiler).namelist()
    assert not any(name.endswith(".so") for name in names)
    python = install(wheel_without_compiler)
    done = run(python, "-c", RUNTIME, models, ",".join(ABSENT), cwd=models)
    expect(found(done), "numpy", python)
    assert done.stderr.count("the C extension was not built: packing runs on numpy") == 1


def test_a_portable_file_needs_onnxruntime_alone(install, wheel, models):
    got = found(run(install(wheel), "-c", ONNXRUNTIME, models, cwd=models))
    assert got == {"equal": True, "loaded": []}
