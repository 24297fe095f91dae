"""Python environments apart from the suite's own, kept between runs."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def cache() -> Path:
    """Where they are kept: in the project's own environment, or a temporary folder."""
    root = Path(__file__).parents[1] / ".venv"
    return (root if root.is_dir() else Path(tempfile.gettempdir())) / "test-environments"


def python_with(*packages: str) -> Path:
    """The interpreter of an environment that holds these packages, made when missing."""
    tag = "-".join([*packages, f"py{sys.version_info.major}{sys.version_info.minor}"])
    home = cache() / "".join(c if c.isalnum() or c in "-._" else "_" for c in tag)
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *packages], check=True)
        (home / "ready").touch()
    return python
