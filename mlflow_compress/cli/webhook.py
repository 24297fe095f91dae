"""``mlflow-compress webhook``: register a version, and it is compressed and promoted."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from mlflow_compress.base.bounds import JOBS, SECONDS, TRIALS
from mlflow_compress.cli.command import Group, Number, whole
from mlflow_compress.cli.output import echo, finite
from mlflow_compress.cli.registered import TRACKING_URI
from mlflow_compress.errors import ConfigError, UnreachableError

__all__ = ["webhook"]

Command = TypeVar("Command", bound=Callable[..., Any])

_NAME: Any = click.option(
    "--name",
    default="mlflow-compress",
    show_default=True,
    metavar="NAME",
    help="The webhook's name in MLflow.",
)


def _secret(command: Command) -> Command:
    """Give a command the two ways to name the secret."""
    file = click.option(
        "--secret-file",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="File that holds the secret which deliveries are signed with.",
    )
    variable = click.option(
        "--secret-env", metavar="NAME", help="Environment variable that holds the secret."
    )
    return variable(file(command))


@click.group(cls=Group)
def webhook() -> None:
    """Compress and promote as soon as a version is registered, told by MLflow's server.

    `serve` runs the receiver, `register` makes its webhook in MLflow, `test` tries it.
    """


@webhook.command()
@click.argument(
    "configs", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@_secret
@click.option(
    "--queue",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder that keeps what is still to be done.",
)
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=whole(TRIALS),
    help="Jobs that may wait.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=whole(JOBS),
    help="Jobs at a time; never two of one model.",
)
@click.option(
    "--settle",
    default=2.0,
    show_default=True,
    type=Number(0, SECONDS.most),
    metavar="SECONDS",
    help="Wait so long after a first event for further ones.",
)
@click.option(
    "--grace",
    default=60.0,
    show_default=True,
    type=Number(0, SECONDS.most),
    metavar="SECONDS",
    help="At the end, give running jobs so long to close their runs.",
)
@click.option(
    "--catch-up/--no-catch-up",
    default=True,
    show_default=True,
    help="At the start, do each CONFIG's job once.",
)
def serve(
    configs: tuple[Path, ...],
    secret_env: str | None,
    secret_file: Path | None,
    **options: Any,
) -> None:
    """Do what `retrain` does with a CONFIG (a compress.yaml) when its source changes.

    Receives the registry webhooks of an MLflow server on /webhook, and shows on /healthz how it
    stands. Prints one line of JSON per delivery and per job. Ends on SIGTERM or Ctrl-C; what is
    still to be done then is done after the next start.
    """
    from mlflow_compress.mlflow_plugin.webhook import receiver
    from mlflow_compress.mlflow_plugin.webhook.signature import Secret
    from mlflow_compress.mlflow_plugin.webhook.watched import load_watched

    secret = Secret.read(secret_env, secret_file)
    receiver.serve(load_watched(configs), secret, receiver.Settings(**options), _print_line)


@webhook.command()
@click.option(
    "--url",
    required=True,
    metavar="URL",
    help="The receiver's address as the MLflow server reaches it; its path is /webhook.",
)
@_NAME
@_secret
@TRACKING_URI
def register(
    url: str,
    name: str,
    secret_env: str | None,
    secret_file: Path | None,
    tracking_uri: str | None,
) -> None:
    """Make the receiver's webhook in MLflow; one that is there already is made equal."""
    from mlflow_compress.mlflow_plugin.webhook import registration
    from mlflow_compress.mlflow_plugin.webhook.signature import Secret

    secret = Secret.read(secret_env, secret_file)
    client = registration.server_of(tracking_uri)
    done = registration.register(client, name, url, secret)
    echo(f"{done}: webhook {name!r} sends to {url}")


@webhook.command()
@_NAME
@TRACKING_URI
def test(name: str, tracking_uri: str | None) -> None:
    """Have the MLflow server send a signed example to the receiver, and show the answer."""
    from mlflow_compress.mlflow_plugin.webhook import registration

    answer = registration.try_out(registration.server_of(tracking_uri), name)
    text = f"the receiver answers {answer.status}: {' '.join(answer.text.split())[:300]}"
    if answer.status == 429 or answer.status >= 500:
        raise UnreachableError(text)
    if answer.status >= 300:
        raise ConfigError(text)
    echo(text)


def _print_line(happened: Mapping[str, Any]) -> None:
    echo(json.dumps(finite(happened), allow_nan=False))
