"""Portable files in onnxruntime-web: in Node and in headless Chromium."""

import json
from functools import partial
from http.server import ThreadingHTTPServer

import packed_models
import portable_models as models
import portable_web as web
import pytest

from mlflow_compress import packed


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each kind and a larger model, plain and packed, with an input."""
    folder = tmp_path_factory.mktemp("web")
    made = {kind: models.of_kind(kind) for kind in models.KINDS}
    made["million"] = models.chain(models.dense((1000, 1000)))
    made["mlp"] = packed_models.mlp(centroids=16)
    for name, model in made.items():
        packed.save(model, folder / f"{name}.plain.onnx")
        packed.save(packed.pack(model, "portable"), folder / f"{name}.packed.onnx")
        x = models.x_for(model)
        (folder / f"{name}.f32").write_bytes(x.tobytes())
        (folder / f"{name}.json").write_text(json.dumps({"dims": x.shape}))
    return folder, sorted(made)


def test_node_runs_every_kind_with_equal_outputs(files):
    folder, names = files
    found = web.node("in_node.mjs", folder, *names)
    assert sorted(found) == names
    assert all(result["equal"] and result["numbers"] for result in found.values()), found


def test_chromium_runs_every_kind_with_equal_outputs(files):
    folder, names = files
    runtime = web.home() / "node_modules" / "onnxruntime-web" / "dist"

    class Handler(web.example_module("serve").Handler):
        def translate_path(self, path):
            if path.startswith("/kinds.html"):
                return str(web.DRIVERS / "kinds.html")
            return super().translate_path(path)

    handler = partial(Handler, models=folder, runtime=runtime)
    executable = web.chromium()
    (web.home() / "chromium.mjs").write_text((web.DRIVERS / "chromium.mjs").read_text())
    with web.served(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        query = "&".join(f"name={name}" for name in names)
        result = web.node("in_page.mjs", executable, f"{address}/kinds.html?{query}")
    assert result == {"found": dict.fromkeys(names, True), "errors": []}
