"""Optional packages: what needs one says so before it is used, with the line that installs it."""

from collections.abc import Mapping
from importlib.util import find_spec

from mlflow_compress.errors import MissingDependencyError

__all__ = ["not_installed", "require_modules"]

_EXTRAS = {"torch": "mlflow-compress[torch]"}
"""What installs a module that is no package of its name, or no other version will do."""


def not_installed(error: BaseException) -> str | None:
    """Return the line that names a package of somebody else that could not be imported.

    Args:
        error: what happened; None is returned where it is something else.
    """
    if not isinstance(error, ModuleNotFoundError):
        return None
    name = (error.name or "").partition(".")[0]
    if name in ("", "mlflow_compress"):
        return None
    return f"package {name!r} is not installed: pip install '{_EXTRAS.get(name, name)}'"


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
