"""onnxruntime-web from npm and Debian's Chromium, for the tests that run packed files there."""

import importlib.util
import json
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "browser"
DRIVERS = Path(__file__).parent / "web"


def example_module(name):
    """A module of the example, which is no package."""
    spec = importlib.util.spec_from_file_location(f"browser_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def home() -> Path:
    """A folder with the example's npm packages, kept between runs."""
    base = ROOT / ".venv"
    folder = (base if base.is_dir() else Path(tempfile.gettempdir())) / "web"
    wanted = (EXAMPLE / "package.json").read_text()
    ready = folder / "ready"
    if not ready.is_file() or ready.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        options = ["--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(["npm", "install", *options], cwd=folder, check=True, capture_output=True)
        ready.write_text(wanted)
    return folder


def chromium() -> str:
    """The path of Chromium, installed when missing."""
    if shutil.which("chromium") is None:
        script = ROOT / "tests" / "tools" / "install_chromium.sh"
        subprocess.run([script], check=True, capture_output=True)
    return shutil.which("chromium")


def node(script, *arguments):
    """Run one of the scripts in ``web/`` beside the npm packages; it prints JSON."""
    folder = home()
    copy = folder / script
    shutil.copyfile(DRIVERS / script, copy)
    ran = subprocess.run(
        ["node", copy, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@contextmanager
def served(server):
    """Run an HTTP server in a thread; gives its address."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
