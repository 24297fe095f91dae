"""examples/browser, used in headless Chromium as a visitor does."""

import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import onnx
import portable_web as web
import pytest

from mlflow_compress import packed
from mlflow_compress.errors import SourceError


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The example's two models, trained for less long than the example does."""
    folder = tmp_path_factory.mktemp("models")
    web.example_module("train").make(folder, epochs=5, again=2)
    return folder


@pytest.fixture
def address(models):
    runtime = web.home() / "node_modules" / "onnxruntime-web" / "dist"
    with web.served(web.example_module("serve").server(models, runtime)) as running:
        yield running


def test_a_visitor_draws_digits_by_mouse_touch_and_keyboard(models, address, tmp_path):
    (web.home() / "chromium.mjs").write_text((web.DRIVERS / "chromium.mjs").read_text())
    pictures = Path(os.environ.get("BROWSER_PICTURES", tmp_path))
    found = web.node("in_example.mjs", web.chromium(), address, pictures)
    assert found["errors"] == []
    assert found["mouse"] == {digit: digit for digit in "01237"}
    assert (found["touch"], found["keys"]) == ("2", "7")
    assert {found[name] for name in ("blank", "cleared", "deleted")} == {"–"}
    assert found["overflow"] == 0
    sizes = {name: (models / f"{name}.onnx").stat().st_size for name in ("packed", "plain")}
    for row, name in zip(found["rows"], ("packed", "plain"), strict=True):
        pattern = rf"{name}\s+{sizes[name] / 1000:.1f} kB\s+\d+ ms\s+\d+\.\d\d ms"
        assert re.fullmatch(pattern, row.strip()), row
    rate = sizes["plain"] / sizes["packed"]
    assert found["status"].startswith(f"The packed file is {rate:.1f} times smaller. The runtime ")
    assert rate > 30
    for name in ("light.png", "dark.png"):
        assert (pictures / name).stat().st_size > 5000


@pytest.mark.parametrize(
    "path",
    ["/serve.py", "/../serve.py", "/models/../serve.py", "/ort/..%2f..%2fpackage.json", "/out"],
)
def test_the_server_gives_nothing_but_the_page_models_and_runtime(address, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/models/packed.onnx", "application/octet-stream"),
        ("/ort/ort.wasm.bundle.min.mjs", "text/javascript"),
    ],
)
def test_the_server_says_what_files_are(address, path, kind):
    with urllib.request.urlopen(address + path) as answer:
        assert answer.headers["Content-Type"] == kind
        assert int(answer.headers["Content-Length"]) == len(answer.read())


def test_a_variant_is_shown_beside_what_it_unpacks_to(models, tmp_path, monkeypatch):
    serve = web.example_module("serve")
    monkeypatch.setattr(serve, "OUT", tmp_path / "out")
    given = serve.prepare(models / "packed.onnx", None)
    assert (given / "packed.onnx").read_bytes() == (models / "packed.onnx").read_bytes()
    assert onnx.load(given / "plain.onnx") == packed.unpack(models / "packed.onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another model")
    given = serve.prepare(models / "packed.onnx", other)
    assert (given / "plain.onnx").read_bytes() == b"another model"
    packed.save(packed.pack(onnx.load(models / "plain.onnx")), other)
    with pytest.raises(SourceError, match=r"is compact, a browser needs --profile portable"):
        serve.prepare(other, None)
