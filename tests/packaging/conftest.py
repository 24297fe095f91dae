"""The sdist, the wheels made of it, and environments that hold one of them and little else."""

import shutil
import venv

import pytest

from tests.environments import python_with
from tests.packaging.building import BUILD, DEVICE, ROOT, run, wheel_of


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """The source distribution, made of a copy: nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "mlflow_compress", source / "mlflow_compress", ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    run(python_with(*BUILD), "-c", code, cwd=source)
    (found,) = folder.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    return wheel_of(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_without_compiler(sdist, tmp_path_factory):
    return wheel_of(sdist, tmp_path_factory.mktemp("no-cc"), CC="/bin/false")


@pytest.fixture
def install(tmp_path):
    """Return a function: wheel to the interpreter of a fresh environment that has it."""

    def make(wheel):
        home = tmp_path / "device"
        venv.create(home, with_pip=False)
        python = home / "bin" / "python"
        pip = [python_with(*BUILD), "-m", "pip", "--python", python, "install", "-q"]
        run(*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
        (site,) = home.glob("lib/python*/site-packages")
        (others,) = python_with(*DEVICE).parents[1].glob("lib/python*/site-packages")
        (site / "others.pth").write_text(f"{others}\n")
        return python

    return make
