"""HTTP connections that may not stay open for nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_SECONDS", "HeadInTime"]

HEAD_SECONDS = 10.0
"""Seconds within which a whole request head must be there, a connection's first and each next."""


class HeadInTime(H11Protocol):
    """uvicorn's HTTP, which by itself waits for ever for a first request, and for a slow one.

    Each open connection counts against ``limit_concurrency``: a few that send nothing would lock
    out everybody. It is the h11 one whatever else is installed, because h11 always is.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin, and wait for the first request."""
        super().connection_made(transport)
        self._await_head(None)

    def on_response_complete(self) -> None:
        """Go on after a response, and wait for the next request."""
        answered = self.cycle
        super().on_response_complete()
        self._await_head(answered)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _await_head(self, before: object) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up, before)

    def _give_up(self, before: object) -> None:
        """Close a connection on which no request began since; one that is answered stays."""
        if self.cycle is before:
            # Not close(): that would wait for a visitor who does not read what was written.
            self.transport.abort()
