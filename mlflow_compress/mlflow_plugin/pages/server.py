"""The pages' routes in MLflow's app: who is spoken for, what goes wrong, which headers go out."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio
from mlflow.exceptions import MlflowException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mlflow_compress.errors import CompressError, ConfigError, SourceNotFoundError, UnreachableError
from mlflow_compress.mlflow_plugin.pages import actions, views
from mlflow_compress.mlflow_plugin.pages.assets import find_asset
from mlflow_compress.mlflow_plugin.pages.caller import Caller, caller_of, static_prefix
from mlflow_compress.mlflow_plugin.pages.session import (
    FieldError,
    ForgedError,
    fields_of,
    promotion_allowed,
)
from mlflow_compress.tracking.patience import one_line

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["with_pages"]

# Plotly writes style attributes into its drawings; scripts are the server's own files alone.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # 'no-referrer' would make browsers hide the origin of forms from the server too
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
_REALM = {"WWW-Authenticate": 'Basic realm="mlflow"'}
# A page waits for calls to this very server: few at once, so that threads are left for those.
_AT_ONCE = 8
_LONGEST_FORM = 16_384

Answer = Callable[[Request, Caller], Response]


def with_pages(app: Any, auth: bool = False) -> "FastAPI":
    """Put the pages before everything else that an app serves.

    Args:
        app: MLflow's.
        auth: whether it asks visitors who they are.

    Raises:
        MlflowException: it is not the app that uvicorn runs.
    """
    from fastapi import FastAPI

    if not isinstance(app, FastAPI):
        raise MlflowException("the pages need uvicorn, MLflow's default: leave --gunicorn-opts out")
    home = f"{static_prefix()}/compress"
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    def page(answer: Answer) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                body = await _body(request) if request.method == "POST" else b""
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            work = _Work(request, body, answer, auth)
            response = await anyio.to_thread.run_sync(work.run, limiter=limiter)
            response.headers.update(_HEADERS)
            return response

        return handle

    routes = [
        Route(home, page(views.index), methods=["GET"]),
        Route(f"{home}/", lambda request: RedirectResponse(home), methods=["GET"]),
        Route(f"{home}/static/{{name}}", _asset, methods=["GET"]),
        Route(f"{home}/models/{{name}}", page(views.model), methods=["GET"]),
    ]
    if promotion_allowed():
        action = f"{home}/models/{{name}}/{{action}}"
        routes.append(Route(action, page(actions.act), methods=["POST"]))
    app.router.routes[:0] = routes
    return app


class _Work:
    """One answer, made in a thread."""

    def __init__(self, request: Request, body: bytes, answer: Answer, auth: bool) -> None:
        self._request = request
        self._body = body
        self._answer = answer
        self._auth = auth

    def run(self) -> Response:
        try:
            fields_of(self._request.query_params.multi_items(), "the address")
            form = parse_qsl(self._body.decode("utf-8", "replace"), keep_blank_values=True)
            self._request.state.form = fields_of(form, "the form")
            caller = caller_of(self._request, self._auth)
            with caller.speaking():
                return self._answer(self._request, caller)
        except (CompressError, MlflowException) as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Response:
        status = _status_of(error)
        told = {
            401: "Log in with your user of this MLflow server.",
            403: "Your user may not do this here.",
        }
        text = (
            told.get(status, one_line(error)) if not isinstance(error, ForgedError) else str(error)
        )
        body = views.failure(self._request, status, text)
        return HTMLResponse(body, status, headers=_REALM if status == 401 else None)


def _status_of(error: BaseException) -> int:
    """Return the HTTP status that tells of an error, or of what caused it."""
    if isinstance(error, ForgedError):
        return 403
    if isinstance(error, FieldError):
        return 400
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MlflowException):
            status = int(cause.get_http_status_code())
            return status if status < 500 else 502
        cause = cause.__cause__
    if isinstance(error, SourceNotFoundError):
        return 404
    if isinstance(error, UnreachableError):
        return 503
    return 409 if isinstance(error, ConfigError) else 500


async def _body(request: Request) -> bytes:
    """Read a form; one that is longer than any page's is nothing, and refused for its token."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            return b""
    return body


async def _asset(request: Request) -> Response:
    asset = find_asset(request.path_params["name"])
    if asset is None:
        return Response("no such file", 404, headers=_HEADERS)
    headers = _HEADERS | _FOR_EVER
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers |= {"Content-Encoding": "gzip"}
        return Response(asset.gzipped, headers=headers, media_type=asset.media_type)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
