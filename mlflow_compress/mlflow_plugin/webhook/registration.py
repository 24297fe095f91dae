"""The webhook in MLflow's registry: made, kept equal, and tried."""

import re
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook

from mlflow_compress.errors import CompressError, ConfigError, SourceNotFoundError, UnreachableError
from mlflow_compress.mlflow_plugin.webhook.signature import Secret
from mlflow_compress.mlflow_plugin.webhook.watched import EVENTS
from mlflow_compress.tracking.client import connect
from mlflow_compress.tracking.pages import every
from mlflow_compress.tracking.patience import patiently

__all__ = ["Answer", "register", "server_of", "try_out"]

_DESCRIPTION = "mlflow-compress: compress and promote what is registered"
_PATIENCE = 10.0


@dataclass(frozen=True)
class Answer:
    """What a receiver answered to MLflow's server.

    Attributes:
        status: of HTTP.
        text: its body.
    """

    status: int
    text: str


def server_of(tracking_uri: str | None) -> MlflowClient:
    """Return a client of the tracking server that is to send webhooks.

    Raises:
        ConfigError: it is a database, which sends nothing.
        UnreachableError: it does not answer.
    """
    import mlflow

    uri = tracking_uri or mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        raise ConfigError(
            "webhooks are sent by a tracking server: give its address, http://…, with "
            "--tracking-uri or MLFLOW_TRACKING_URI"
        )
    return connect(uri)


def register(client: MlflowClient, name: str, url: str, secret: Secret) -> str:
    """Make the webhook, or make the one of this name equal to what is asked for.

    Returns:
        ``created``, ``updated`` or ``kept``. The secret is set each time: MLflow never shows it.

    Raises:
        ConfigError: MLflow refuses it, several webhooks have this name, or the one that has it is
            somebody else's.
        UnreachableError: the server does not answer.
    """
    known = _find(client, name)
    if known is not None and known.description != _DESCRIPTION:
        raise ConfigError(
            f"webhook {name!r} is there already, and not made by this command: give another --name"
        )
    wanted = {
        "url": url,
        "events": list(EVENTS),
        "secret": secret.text,
        "description": _DESCRIPTION,
        "status": "ACTIVE",
    }
    try:
        if known is None:
            # Should the answer be lost, a second one of the same name is made, and refused later:
            # so this is not repeated.
            patiently("make the webhook", lambda: client.create_webhook(name, **wanted), 0)
            return "created"
        patiently(
            "change the webhook",
            lambda: client.update_webhook(known.webhook_id, **wanted),
            _PATIENCE,
        )
    except UnreachableError:
        raise
    except CompressError as error:
        raise ConfigError(f"{error}{_advice(str(error))}") from None
    return "kept" if _is_equal(known, url) else "updated"


def try_out(client: MlflowClient, name: str) -> Answer:
    """Have MLflow's server send a signed example, and return what came back.

    Raises:
        SourceNotFoundError: there is no webhook of this name.
        UnreachableError: the tracking server does not answer, or does not reach the receiver.
    """
    known = _find(client, name)
    if known is None:
        raise SourceNotFoundError(
            f"there is no webhook {name!r}: make it with mlflow-compress webhook register"
        )
    result = patiently("test the webhook", lambda: client.test_webhook(known.webhook_id), _PATIENCE)
    if result.response_status is None:
        why = re.sub(r"^Failed to test webhook: ", "", result.error_message or "no answer")
        raise UnreachableError(f"MLflow's server does not reach {known.url}: {why}{_advice(why)}")
    return Answer(int(result.response_status), result.response_body or "")


def _find(client: MlflowClient, name: str) -> Webhook | None:
    hooks = patiently(
        "list webhooks",
        lambda: list(every(lambda token: client.list_webhooks(100, token))),
        _PATIENCE,
    )
    found = [one for one in hooks if one.name == name]
    if len(found) > 1:
        ids = ", ".join(one.webhook_id for one in found)
        raise ConfigError(
            f"there are {len(found)} webhooks {name!r} ({ids}): delete all but one with "
            "MlflowClient().delete_webhook(id)"
        )
    return found[0] if found else None


def _is_equal(known: Webhook, url: str) -> bool:
    return (
        known.url == url
        and {str(event) for event in known.events} == set(EVENTS)
        and known.status.is_active()
        and known.description == _DESCRIPTION
    )


def _advice(refusal: str) -> str:
    """Return which of the server's settings allows what it refuses."""
    if "scheme" in refusal:
        return " (start the MLflow server with MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https)"
    if "public" in refusal or "private" in refusal:
        return " (start the MLflow server with MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true)"
    return ""
