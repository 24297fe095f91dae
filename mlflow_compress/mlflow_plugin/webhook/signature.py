"""Which deliveries are MLflow's own: signature and time, checked before the body is read.

MLflow signs as Standard Webhooks does: HMAC-SHA256 over ``id.timestamp.body``.
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import ConfigError

__all__ = ["SECRET_LENGTH", "WINDOW", "Delivery", "RefusedError", "Secret", "check", "sign"]

WINDOW = 300.0
"""Seconds that the clocks of MLflow's server and of this host may be apart."""

SECRET_LENGTH = 16
"""Characters that a secret must have at least."""

_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_VERSION = "v1"


class RefusedError(Exception):
    """A delivery is not taken.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Secret:
    """What deliveries are signed with; never shown.

    Attributes:
        text: the secret itself.
        variable: the environment variable that it came from, or None.
    """

    text: str = field(repr=False)
    variable: str | None = None

    @classmethod
    def read(cls, variable: str | None, path: Path | None) -> "Secret":
        """Read the secret from an environment variable or a file, whichever is given.

        Raises:
            ConfigError: none or both are given, it is not there, or it is too short.
        """
        if (variable is None) == (path is None):
            raise ConfigError("give the secret with --secret-env NAME or with --secret-file PATH")
        if path is not None:
            where = f"secret file {path}"
            try:
                text = path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                raise ConfigError(f"{where}: it is no text") from None
            except OSError as error:
                raise ConfigError(f"{where}: {error.strerror}") from None
        else:
            where = f"environment variable {variable}"
            text = os.environ.get(str(variable), "").strip()
        if len(text) < SECRET_LENGTH:
            raise ConfigError(
                f"{where} must hold a secret of {SECRET_LENGTH} characters or more, got {len(text)}"
                " (make one with: openssl rand -hex 32)"
            )
        return cls(text, variable)


@dataclass(frozen=True)
class Delivery:
    """A delivery that MLflow signed.

    Attributes:
        id: the same in each try of one delivery, of no other.
        sent: seconds since the epoch, as MLflow's server has them.
        about: what happened, such as ``model_version.created``.
        model: the registered model's name; empty when the event has none.
    """

    id: str
    sent: float
    about: str
    model: str


def sign(secret: Secret, delivery_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature's header for a delivery."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret.text.encode(), signed, hashlib.sha256).digest()
    return f"{_VERSION},{base64.b64encode(digest).decode()}"


def check(secret: Secret, headers: Mapping[str, str], body: bytes, now: float) -> Delivery:
    """Return what a delivery says, when MLflow has signed it within :data:`WINDOW`.

    Args:
        secret: what it must be signed with.
        headers: of the request; names in lower case.
        body: as it was sent.
        now: seconds since the epoch.

    Raises:
        RefusedError: it is not MLflow's, too old, or says nothing that can be understood.
    """
    delivery_id = headers.get("x-mlflow-delivery-id", "")
    timestamp = headers.get("x-mlflow-timestamp", "")
    given = headers.get("x-mlflow-signature", "")
    if not given:
        raise RefusedError(401, "not signed: the webhook at MLflow has no secret")
    wanted = sign(secret, delivery_id, timestamp, body)
    if not hmac.compare_digest(wanted.encode(), given.encode()):
        raise RefusedError(401, "wrong signature: the webhook's secret at MLflow is another one")
    if not _ID.fullmatch(delivery_id) or not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise RefusedError(400, "the headers hold no delivery id and time")
    if abs(now - int(timestamp)) > WINDOW:
        raise RefusedError(
            401, f"sent {now - int(timestamp):.0f} s ago by the clock here, {WINDOW:.0f} s count"
        )
    return Delivery(delivery_id, float(timestamp), *_read(body))


def _read(body: bytes) -> tuple[str, str]:
    """Return what happened, and to which model."""
    try:
        event = parse_json(body)
        about, data = f"{event['entity']}.{event['action']}", event["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusedError(400, "the body is no event of MLflow's in JSON") from None
    name = data.get("name") if isinstance(data, dict) else None
    return about, name if isinstance(name, str) else ""
