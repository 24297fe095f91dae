"""Optional packages: what needs one says so before it is used, with the line that installs it."""

from collections.abc import Mapping
from importlib.util import find_spec

from mlflow_compress.errors import MissingDependencyError

__all__ = ["require_modules"]


def require_modules(needed: Mapping[str, str], what: str) -> None:
    """Refuse to go on without modules; none is imported.

    Args:
        needed: by module, what pip installs it by, such as ``mlflow-compress[torch]``.
        what: what needs them, for the message.

    Raises:
        MissingDependencyError: one is not installed.
    """
    for module, package in needed.items():
        if find_spec(module) is None:
            raise MissingDependencyError(f"{what} needs {module}: pip install '{package}'")
