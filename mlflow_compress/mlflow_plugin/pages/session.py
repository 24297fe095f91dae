"""Forms that only the pages themselves can send.

The session is a random cookie that scripts cannot read and other sites' requests do not carry. A
form holds a token made from it, which nobody can make who does not know the cookie. Nothing is
kept on the server, so that all its workers agree.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from urllib.parse import urlsplit

from mlflow.server.security_utils import get_allowed_origins_from_env
from starlette.requests import Request
from starlette.responses import Response

from mlflow_compress.base.once import of_pairs
from mlflow_compress.errors import CompressError, shown

__all__ = [
    "FieldError",
    "ForgedError",
    "check_form",
    "fields_of",
    "promotion_allowed",
    "session_of",
    "set_session",
    "token_of",
]

ALLOW = "MLFLOW_COMPRESS_ALLOW_PROMOTION"
COOKIE = "compress_session"
FIELD = "token"

_BYTES = 32


class ForgedError(CompressError):
    """A form that did not come from the pages."""


class FieldError(CompressError):
    """A form or an address that says one thing twice, which no page makes."""


def fields_of(pairs: Iterable[tuple[str, str]], what: str) -> dict[str, str]:
    """Return the fields of a form or an address, each of which stands there once.

    Args:
        pairs: names and values in their order.
        what: what they are of, for the message.

    Raises:
        FieldError: a field stands there twice.
    """
    return of_pairs(
        pairs, lambda name: FieldError(f"{what} has the field {shown(name)} twice: send it once")
    )


def promotion_allowed() -> bool:
    """Whether the server was started so that its pages can promote."""
    return os.environ.get(ALLOW, "").strip().lower() in ("1", "true", "yes")


def session_of(request: Request) -> str:
    """Return the visitor's session, a new one when there is none."""
    known = request.cookies.get(COOKIE, "")
    return known if len(known) >= _BYTES else secrets.token_urlsafe(_BYTES)


def set_session(response: Response, session: str, request: Request, path: str) -> None:
    """Put the session on a response."""
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, session, path=path, httponly=True, samesite="strict", secure=secure)


def token_of(session: str) -> str:
    """Return the token that forms of a session carry."""
    return hmac.new(session.encode(), b"mlflow-compress form", hashlib.sha256).hexdigest()


def check_form(request: Request, form: Mapping[str, str]) -> None:
    """Refuse a form that was not made by a page of this session and sent from it.

    Raises:
        ForgedError: saying what is missing.
    """
    _check_origin(request)
    session = request.cookies.get(COOKIE, "")
    token = form.get(FIELD, "").encode()
    if len(session) < _BYTES:
        raise ForgedError("the form came without its session: load the page again")
    if not hmac.compare_digest(token, token_of(session).encode()):
        raise ForgedError("the form's token is not its session's: load the page again")


def _check_origin(request: Request) -> None:
    """Browsers name the page that a form was sent from; another site's cannot say otherwise."""
    origin = request.headers.get("origin", "")
    same = urlsplit(origin).netloc == request.headers.get("host", "")
    others = [one for one in get_allowed_origins_from_env() or [] if one != "*"]
    if not origin or not (same or any(fnmatch(origin, one) for one in others)):
        raise ForgedError(f"the form came from {origin or 'nowhere'}, not from these pages")
