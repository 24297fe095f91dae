"""What is still to be done, on disk: it survives restart, ``kill -9`` and power cuts.

One file per job in ``waiting`` and ``running``, written beside, synced and renamed. Whatever a
cut leaves behind leads to a job done once more, never to one that is lost.
"""

import contextlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_compress.base.files import own_folder, replacing
from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import ConfigError
from mlflow_compress.mlflow_plugin.webhook.signature import WINDOW

__all__ = ["LONGEST", "REMEMBERED", "Job", "JobQueue", "QueueFullError"]

REMEMBERED = 10_000
"""Delivery ids that are kept at most."""

LONGEST = 3600.0
"""Seconds that a job waits at most before it is tried again."""

_DELIVERIES = "deliveries.json"
_STATES = ("waiting", "running")
_LOCK = "lock"
_JOB = re.compile(r"[A-Za-z0-9-]+\.json")
_HALF_WRITTEN = re.compile(r"\.[A-Za-z0-9-]+\.json\.[a-z0-9_]{8}")


class QueueFullError(Exception):
    """As many jobs wait as may."""


@dataclass(frozen=True)
class Job:
    """A configuration that is to be compressed.

    Attributes:
        key: of the configuration.
        model: its source's registered model.
        since: when the first event came, in seconds since the epoch.
        due: when it may begin.
        attempts: how often it was begun since its last event.
        events: how many events it stands for.
    """

    key: str
    model: str
    since: float
    due: float
    attempts: int = 0
    events: int = 0


class JobQueue:
    """A bounded queue in which each configuration waits once at most.

    Args:
        folder: kept by this queue alone; made when it is missing. What this queue did not make is
            not touched.
        models: source model by key of the configuration. Jobs of other keys stay on the disk.
        limit: jobs that may wait.
        settle: seconds between a job's first event and its beginning.
        clock: seconds since the epoch.

    Raises:
        ConfigError: another receiver has the folder, it is something else than a queue's, or it
            cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, str],
        *,
        limit: int = 100,
        settle: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._models = folder, dict(models)
        self._limit, self._settle, self._clock = limit, settle, clock
        self._longest = max(settle, LONGEST)
        self._changed = threading.Condition()
        self._shut = False
        try:
            own_folder(folder, "the queue of a webhook's receiver", _is_ours)
            for name in _STATES:
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self._running: dict[str, Job] = {}
            self._kept: set[str] = set()
            self._waiting = self._recovered()
            self._seen = self._remembered()
        except OSError as error:
            raise ConfigError(f"queue folder {folder}: {error.strerror}") from None

    def accept(self, delivery_id: str, sent: float, keys: Collection[str]) -> bool:
        """Put jobs on the queue for a delivery; those that wait already are joined.

        Returns:
            Whether the delivery is new; one that came before changes nothing.

        Raises:
            QueueFullError: there is no room; nothing was changed.
            OSError: the disk takes nothing.
        """
        with self._changed:
            if delivery_id in self._seen:
                return False
            # What waits already is joined, however many wait.
            if len(self._waiting.keys() | set(keys)) > max(self._limit, len(self._waiting)):
                raise QueueFullError(f"{len(self._waiting)} jobs wait already")
            self._put(keys)
            now = self._clock()
            # What is older than the window is refused for its time.
            kept = {k: at for k, at in self._seen.items() if abs(now - at) <= 2 * WINDOW}
            kept[delivery_id] = sent
            kept = dict(list(kept.items())[-REMEMBERED:])
            self._write(self._folder / _DELIVERIES, kept)
            self._seen = kept
        return True

    def add(self, keys: Collection[str]) -> None:
        """Put jobs on the queue without a delivery, also where it is full."""
        with self._changed:
            self._put(keys)

    def _put(self, keys: Collection[str]) -> None:
        now = self._clock()
        for key in keys:
            new = Job(key, self._models[key], now, now + self._settle)
            job = self._waiting.get(key, new)
            self._wait(replace(job, due=min(job.due, new.due), attempts=0, events=job.events + 1))
        self._changed.notify_all()

    def take(self, timeout: float) -> Job | None:
        """Return the job that waits longest of those that may begin; it is running then.

        Jobs of one model never run at once.

        Args:
            timeout: seconds to wait for one.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while not self._shut:
                now = self._clock()
                busy = {job.model for job in self._running.values()}
                free = [job for job in self._waiting.values() if job.model not in busy]
                # what is due later than anything waits is of a clock that was put back since
                ready = [job for job in free if not now < job.due <= now + self._longest]
                if ready:
                    job = min(ready, key=lambda one: one.since)
                    return self._run(replace(job, attempts=job.attempts + 1))
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min([left, *(job.due - now for job in free)]))
        return None

    def _run(self, job: Job) -> Job:
        self._write(self._path("running", job.key), asdict(job))
        self._remove("waiting", job.key)
        del self._waiting[job.key]
        self._running[job.key] = job
        return job

    def finish(self, job: Job) -> None:
        """Take a job off the queue."""
        with self._changed:
            del self._running[job.key]
            self._changed.notify_all()
            self._remove("running", job.key)

    def again(self, job: Job, delay: float, *, counts: bool = True) -> None:
        """Let a job that was running wait again.

        Args:
            job: as :meth:`take` returned it.
            delay: seconds until it may begin, at most :data:`LONGEST`.
            counts: whether this beginning counts as an attempt.
        """
        with self._changed:
            del self._running[job.key]
            if job.key not in self._waiting:
                attempts = job.attempts - (not counts)
                job = replace(job, due=self._clock() + delay, attempts=attempts)
                # First here: where the disk takes nothing, its file among the running ones stays.
                self._waiting[job.key] = job
                self._wait(job)
            self._changed.notify_all()
            self._remove("running", job.key)

    def waiting(self) -> list[Job]:
        """Return the jobs that wait."""
        with self._changed:
            return list(self._waiting.values())

    def running(self) -> list[Job]:
        """Return the jobs that run."""
        with self._changed:
            return list(self._running.values())

    def kept(self) -> list[str]:
        """Return the keys of jobs that wait for their configuration to be served again."""
        return sorted(self._kept)

    def shut(self) -> None:
        """Give out no more jobs."""
        with self._changed:
            self._shut = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let another receiver have the folder."""
        os.close(self._lock)

    def _wait(self, job: Job) -> None:
        self._write(self._path("waiting", job.key), asdict(job))
        self._waiting[job.key] = job

    def _path(self, state: str, key: str) -> Path:
        return self._folder / state / f"{key}.json"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        with replacing(path) as beside:
            beside.write_text(json.dumps(content), encoding="utf-8")

    def _remove(self, state: str, key: str) -> None:
        # Not synced: should the file come back after a power cut, the job is done once more.
        self._path(state, key).unlink(missing_ok=True)

    def _recovered(self) -> dict[str, Job]:
        """Return what waits, and let what was running when the receiver died wait too."""
        found: dict[str, Job] = {}
        for state in _STATES:
            for path in sorted((self._folder / state).iterdir()):
                key = path.stem
                if _HALF_WRITTEN.fullmatch(path.name) and path.is_file():
                    path.unlink()
                elif not _JOB.fullmatch(path.name) or not path.is_file():
                    continue
                elif key not in self._models:
                    self._kept.add(key)
                elif key not in found:
                    found[key] = self._read(path)
        for key, job in found.items():
            self._write(self._path("waiting", key), asdict(job))
            self._remove("running", key)
        return found

    def _read(self, path: Path) -> Job:
        """Read a job; of one that cannot be read, its name is enough to do it."""
        now = self._clock()
        job = Job(path.stem, self._models[path.stem], now, now)
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            job = _checked(Job(**parse_json(path.read_text(encoding="utf-8"))))
        return replace(job, model=self._models[path.stem], due=min(job.due, now + self._settle))

    def _remembered(self) -> dict[str, float]:
        for path in self._folder.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name) and path.is_file():
                path.unlink()
        try:
            text = (self._folder / _DELIVERIES).read_text(encoding="utf-8")
            pairs: Iterable[tuple[str, Any]] = parse_json(text).items()
            return {str(key): float(sent) for key, sent in pairs}
        except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
            return {}


def _is_ours(path: Path) -> bool:
    """Whether what lies in a folder is what a queue of a version without manifests made."""
    if path.name in _STATES and path.is_dir():
        return all(
            _JOB.fullmatch(one.name) or _HALF_WRITTEN.fullmatch(one.name) for one in path.iterdir()
        )
    if path.name == _LOCK:
        return path.is_file() and not path.stat().st_size
    return path.name == _DELIVERIES or bool(_HALF_WRITTEN.fullmatch(path.name))


def _checked(job: Job) -> Job:
    """Return a job that was read as long as its times and counts are such."""
    times, counts = (job.since, job.due), (job.attempts, job.events)
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in times):
        raise ValueError("times are numbers")
    if not all(isinstance(one, int) and one >= 0 for one in counts):
        raise ValueError("counts are numbers")
    return job


def _locked(folder: Path) -> int:
    """Lock a folder for as long as this process lives; return the lock's file descriptor."""
    import fcntl

    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(
            f"queue folder {folder} is another receiver's: stop that one, or name another folder"
        ) from None
    return handle
