"""The server that the pages are part of, spoken to as the person who looks at them.

Everything goes over the server's own HTTP API with the visitor's ``Authorization`` header, so that
MLflow's authentication, permissions and webhooks hold for the pages as for any client.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow.server.handlers import STATIC_PREFIX_ENV_VAR
from mlflow.utils.credentials import get_default_host_creds
from starlette.requests import Request
from werkzeug.datastructures import Authorization

from mlflow_compress.errors import CompressError
from mlflow_compress.mlflow_plugin.context import FORWARDED, VISITOR
from mlflow_compress.tracking.artifacts import MOST_BYTES

__all__ = ["PATIENCE", "Caller", "caller_of", "static_prefix"]

ADDRESS = "MLFLOW_COMPRESS_TRACKING_URI"

PATIENCE = 5.0
"""Seconds; a person waits for the page."""

_FORWARDED = ("Authorization", "Host", "X-MLFLOW-WORKSPACE")
_TIMEOUT = 30


def static_prefix() -> str:
    """Return what ``mlflow server --static-prefix`` puts before every path."""
    return os.environ.get(STATIC_PREFIX_ENV_VAR, "").rstrip("/")


@dataclass(frozen=True)
class Caller:
    """A visitor's way to the server.

    Attributes:
        address: the server's address.
        headers: what identifies the visitor; goes with every call.
        user: the visitor's name, where the server asks for it and the headers tell it.
    """

    address: str
    headers: dict[str, str] = field(repr=False)
    user: str = ""

    @cached_property
    def client(self) -> MlflowClient:
        """A client that is the visitor, inside :meth:`speaking`."""
        return MlflowClient(self.address, self.address)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Give the visitor's headers to every call of MLflow's client in this context."""
        headers, user = FORWARDED.set(self.headers), VISITOR.set(self.user)
        try:
            yield
        finally:
            FORWARDED.reset(headers)
            VISITOR.reset(user)

    def artifact(self, run_id: str, path: str) -> str | None:
        """Return a text artifact of a run; None when it is not there or not for the visitor.

        ``MlflowClient.download_artifacts`` works in threads, which would not know the visitor.

        Raises:
            CompressError: it is larger than any that is written here; no more of it is read.
        """
        kept = bytearray()
        with requests.Session() as session:
            session.trust_env = False
            with session.get(
                f"{self.address}/get-artifact",
                params={"run_id": run_id, "path": path},
                headers=self.headers,
                timeout=_TIMEOUT,
                stream=True,
            ) as answer:
                if answer.status_code != 200:
                    return None
                told = answer.headers.get("Content-Length", "")
                too_large = told.isdecimal() and int(told[:20]) > MOST_BYTES
                for chunk in answer.iter_content(1 << 16) if not too_large else ():
                    kept += chunk
                    if too_large := len(kept) > MOST_BYTES:
                        break
        if too_large:
            raise CompressError(
                f"{path} of run {run_id} is larger than {MOST_BYTES >> 20} MiB: it is not read"
            )
        return kept.decode("utf-8", "replace")


def caller_of(request: Request, auth: bool) -> Caller:
    """Return the visitor's way to the server.

    Args:
        request: the visitor's.
        auth: whether the server asks who they are.

    Raises:
        CompressError: the server cannot be reached by itself, or would be taken for another.
    """
    address = os.environ.get(ADDRESS, "").rstrip("/") or _own_address(request)
    if auth:
        _refuse_own_credentials(address)
    _go_directly(address)
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    # Where nobody is asked to log in, a name in the headers is anybody's claim.
    return Caller(address, headers, _user_of(headers) if auth else "")


def _user_of(headers: Mapping[str, str]) -> str:
    """Return the user name as MLflow's authentication reads it, by the same parser."""
    found = Authorization.from_header(headers.get("Authorization"))
    return (found.username if found else None) or ""


def _own_address(request: Request) -> str:
    host, port = request.scope.get("server") or ("", None)
    if not port:
        raise CompressError(f"the server listens on a socket: name its address in {ADDRESS}")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}{static_prefix()}"


def _refuse_own_credentials(address: str) -> None:
    """Refuse to go on where MLflow's client would send other credentials than the visitor's."""
    creds = get_default_host_creds(address)
    own = creds.username or creds.password or creds.token or creds.auth or creds.aws_sigv4
    if own or requests.utils.get_netrc_auth(address) is not None:
        raise CompressError(
            "the server's process has credentials of its own (MLFLOW_TRACKING_USERNAME, "
            "MLFLOW_TRACKING_TOKEN, ~/.mlflow/credentials or ~/.netrc): start it without them"
        )


def _go_directly(address: str) -> None:
    """Keep a proxy that the environment names out of calls to the server itself."""
    host = urlsplit(address).hostname or ""
    for name in ("no_proxy", "NO_PROXY"):
        known = [part for part in os.environ.get(name, "").split(",") if part]
        if host not in known and "*" not in known:
            os.environ[name] = ",".join([*known, host])
