"""The HTTP side: takes deliveries, answers, and shows how it stands."""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mlflow_compress.errors import ConfigError
from mlflow_compress.mlflow_plugin.webhook.heads import HeadInTime
from mlflow_compress.mlflow_plugin.webhook.queue import JobQueue, QueueFullError
from mlflow_compress.mlflow_plugin.webhook.signature import Delivery, RefusedError, Secret, check
from mlflow_compress.mlflow_plugin.webhook.watched import EVENTS, Watched, concerned
from mlflow_compress.mlflow_plugin.webhook.worker import Log, Worker, undisturbed, utc

__all__ = ["BODY_LIMIT", "BODY_SECONDS", "Settings", "application", "serve", "server_of"]

BODY_LIMIT = 1 << 20
"""Bytes that a delivery's body may have."""

BODY_SECONDS = 10.0
"""Seconds within which it must be there."""

_CONNECTIONS = 64
_RETRY_SECONDS = 5
_KEPT = "they wait for their CONFIG, which was moved or left out; to forget one, delete its file"


@dataclass(frozen=True)
class Settings:
    """How a receiver runs.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        queue: the folder of the queue.
        limit: jobs that may wait.
        jobs: jobs at a time.
        settle: seconds between a first event and its job.
        grace: seconds that running jobs have to end in.
        catch_up: do each configuration's job once at the start.
    """

    queue: Path
    host: str = "127.0.0.1"
    port: int = 8080
    limit: int = 100
    jobs: int = 1
    settle: float = 2.0
    grace: float = 60.0
    catch_up: bool = True


def serve(
    watched: Sequence[Watched],
    secret: Secret,
    settings: Settings,
    log: Log,
) -> None:
    """Take deliveries and do jobs until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: the address or the queue's folder cannot be had.
    """
    log = undisturbed(_stamped(log))
    models = {one.key: one.model for one in watched}
    with (
        _listen(settings.host, settings.port) as listening,
        contextlib.closing(
            JobQueue(settings.queue, models, limit=settings.limit, settle=settings.settle)
        ) as queue,
    ):
        worker = Worker(
            queue,
            watched,
            log,
            jobs=settings.jobs,
            grace=settings.grace,
            without=[secret.variable] if secret.variable else [],
        )
        if settings.catch_up:
            queue.add(models.keys() - {job.key for job in queue.waiting()})
        server = server_of(application(watched, secret, queue, worker, log))
        host, port = listening.getsockname()[:2]
        log(
            {"event": "listening", "host": host, "port": port, "models": sorted({*models.values()})}
        )
        if kept := queue.kept():
            log({"event": "kept", "jobs": kept, "why": _KEPT})
        with _ended_by_signals(server):
            server.run(sockets=[listening])
        log({"event": "stopped", "queued": len(queue.waiting())})


def application(
    watched: Sequence[Watched], secret: Secret, queue: JobQueue, worker: Worker, log: Log
) -> Starlette:
    """Return the application: ``POST /webhook`` and ``GET /healthz``; it runs the worker."""

    @contextlib.asynccontextmanager
    async def working(_app: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    log = undisturbed(log)
    take = partial(_take, watched, secret, queue, log)
    return Starlette(
        routes=[
            Route("/webhook", partial(_webhook, take, log), methods=["POST"]),
            Route("/healthz", partial(_health, queue, worker), methods=["GET"]),
        ],
        lifespan=working,
    )


def server_of(app: Starlette) -> uvicorn.Server:
    """Return the HTTP server of an application, with limits that leave nobody locked out."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=HeadInTime,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )


async def _webhook(
    take: Callable[[Mapping[str, str], bytes], tuple[int, str]], log: Log, request: Request
) -> JSONResponse:
    try:
        body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        # Written and synced before it is answered, which blocks.
        status, answer = await run_in_threadpool(take, request.headers, body)
    except RefusedError as refused:
        status, answer = refused.status, str(refused)
    except TimeoutError:
        status, answer = 408, f"the body was not there within {BODY_SECONDS:g} s"
    except ClientDisconnect:
        status, answer = 400, "the connection was closed before the body was there"
    else:
        return JSONResponse({"status": answer}, status, _headers(status))
    log({"event": "delivery", "status": status, "answer": answer, "from": _peer(request)})
    return JSONResponse({"error": answer}, status, _headers(status))


async def _body(request: Request) -> bytes:
    """Return the request's body, and not more of it than may be."""
    refused = RefusedError(413, f"the body is larger than {BODY_LIMIT} bytes")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > BODY_LIMIT:
        raise refused
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise refused
    return bytes(body)


def _take(
    watched: Sequence[Watched],
    secret: Secret,
    queue: JobQueue,
    log: Log,
    headers: Mapping[str, str],
    body: bytes,
) -> tuple[int, str]:
    """Return the status and the answer to a delivery, which is on the queue then."""
    delivery = check(secret, headers, body, time.time())
    try:
        status, answer = _enqueue(watched, queue, delivery)
    except QueueFullError as full:
        raise RefusedError(503, f"the queue is full: {full}") from None
    except OSError as error:
        raise RefusedError(503, f"the queue cannot be written: {error.strerror}") from None
    log(
        {
            "event": "delivery",
            "status": status,
            "delivery": delivery.id,
            "about": delivery.about,
            "model": delivery.model,
            "answer": answer,
        }
    )
    return status, answer


def _enqueue(watched: Sequence[Watched], queue: JobQueue, delivery: Delivery) -> tuple[int, str]:
    found = concerned(watched, delivery.about, delivery.model)
    if not found:
        why = "no configuration has this model as its source"
        if delivery.about not in EVENTS:
            why = f"only {' and '.join(EVENTS)} count"
        return 200, f"ignored: {why}"
    new = queue.accept(delivery.id, delivery.sent, [one.key for one in found])
    return (202, "queued") if new else (200, "came before")


async def _health(queue: JobQueue, worker: Worker, _request: Request) -> JSONResponse:
    """Answer without locking out anybody for long, and without a secret."""
    alive, last = worker.is_alive(), worker.last
    document: dict[str, Any] = {
        "status": "ok" if alive else "nothing works on the queue: start the receiver again",
        "version": version("mlflow-compress"),
        "queued": len(await run_in_threadpool(queue.waiting)),
        "running": [
            {"model": model, "since": utc(since)}
            for model, since in await run_in_threadpool(worker.running)
        ],
        "last": last and {
            "model": last.model, "exit_code": last.exit_code, "ended": utc(last.ended)
        },
    }  # fmt: skip
    return JSONResponse(document, 200 if alive else 503)


def _headers(status: int) -> dict[str, str]:
    return {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else {}


def _peer(request: Request) -> str | None:
    return request.client.host if request.client else None


def _stamped(log: Log) -> Log:
    """Put the time before what is logged, one line at a time."""
    lock = threading.Lock()

    def stamped(happened: Mapping[str, Any]) -> None:
        with lock:
            log({"time": utc(time.time()), **happened})

    return stamped


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


@contextlib.contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """End the server on a signal before it listens to them itself, and do nothing afterwards.

    Afterwards, because uvicorn sends itself once more the signal that ended it.
    """

    def end(_number: int, _frame: Any) -> None:
        server.should_exit = True

    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
