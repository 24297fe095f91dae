"""What the commands on registered models share: their arguments and moments in time."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_compress.errors import ConfigError, UnreachableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_compress.config.compress import Config

__all__ = [
    "AS_JSON",
    "TARGET",
    "TRACKING_URI",
    "WHY",
    "Registered",
    "check_alias",
    "model_argument",
    "open_model",
    "utc",
    "when",
]

Command = TypeVar("Command", bound=Callable[..., Any])

_SQLITE = "sqlite:///"

AS_JSON: Any = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for scripts."
)
TARGET: Any = click.option(
    "--target", required=True, metavar="T", help="The target's name, which is its alias."
)
TRACKING_URI: Any = click.option(
    "--tracking-uri",
    metavar="URI",
    help="Tracking server or store [the config's, or MLFLOW_TRACKING_URI].",
)
WHY: Any = click.option("--why", default="", metavar="TEXT", help="The reason, for the record.")


def model_argument(command: Command) -> Command:
    """Give a command the argument MODEL."""
    return click.argument("model", metavar="MODEL")(command)


@dataclass(frozen=True)
class Registered:
    """A registered model as it was named on the command line.

    Attributes:
        name: its name.
        client: where it is.
        config: the configuration that named it, or None.
    """

    name: str
    client: "MlflowClient"
    config: "Config | None" = None


def _is_config(given: str) -> bool:
    """Whether MODEL is a configuration file and not a registered model's name."""
    return given.endswith((".yaml", ".yml")) or Path(given).is_file()


def open_model(given: str, tracking_uri: str | None) -> Registered:
    """Find the registered model behind MODEL: its name, or a compress.yaml that makes it.

    Raises:
        ConfigError: it can be neither, or there is no such registered model.
        UnreachableError: the server or store is not there.
    """
    from mlflow_compress.mlflow_plugin import connect
    from mlflow_compress.registry import require_model

    config = None
    if _is_config(given):
        from mlflow_compress.config.compress import load_config

        config = load_config(Path(given))
        tracking_uri = tracking_uri or config.tracking_uri
    elif not re.fullmatch(r"[^/:.%\"'@\ud800-\udfff]+", given):
        raise ConfigError(
            f"MODEL must be a registered model's name, such as lenet-edge, or a compress.yaml, "
            f"got {given!r}"
        )
    _check_there(tracking_uri)
    client = connect(tracking_uri)
    name = given
    if config is not None:
        name = config.register_as or _default_name(config.source, client)
    require_model(client, name)
    return Registered(name, client, config)


def _default_name(source: str, client: "MlflowClient") -> str:
    from mlflow_compress.tracking.names import variants_name
    from mlflow_compress.tracking.source import source_name

    return variants_name(source_name(source, client))


def _check_there(tracking_uri: str | None) -> None:
    """Refuse a database file that is missing: MLflow would make an empty one."""
    import mlflow

    uri = tracking_uri or mlflow.get_tracking_uri()
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    if uri.startswith(_SQLITE) and not uri.endswith(":memory:") and not path.exists():
        hint = "" if tracking_uri else ": set MLFLOW_TRACKING_URI, or give --tracking-uri"
        raise UnreachableError(f"there is no tracking store {uri}{hint}")


def check_alias(target: str) -> str:
    """Return a target's name.

    Raises:
        ConfigError: it cannot be one.
    """
    from mlflow_compress.targets.profile import alias_problem

    problem = alias_problem(target)
    if problem:
        raise ConfigError(f"--target {target!r} cannot be a target's name: {problem}")
    return target


def utc(milliseconds: int | None) -> str | None:
    """Return a moment as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))


def when(milliseconds: int | None) -> str:
    """Return a moment for people: ``2026-11-24 08:15 UTC``."""
    if milliseconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(milliseconds / 1000))
