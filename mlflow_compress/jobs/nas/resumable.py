"""A job that is recorded in one run, and goes on in it when it was broken off."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.base.markers import forget, read_marker, write_marker
from mlflow_compress.errors import CompressError, shown
from mlflow_compress.recording.nas import NasRuns

__all__ = ["JobRun", "resumable"]

_RUN = re.compile("[0-9a-zA-Z_-]{1,64}")


@dataclass(frozen=True)
class JobRun:
    """The run of a job.

    Attributes:
        id: of the run.
        said: what the job has to know of itself when it goes on, as JSON.
    """

    id: str
    said: Mapping[str, Any]


@contextmanager
def resumable(
    runs: NasRuns,
    marker: Path,
    begin: Callable[[], JobRun],
    *,
    is_whole: Callable[[Mapping[str, Any]], object] = bool,
    what: str,
    tell: Callable[[str], None],
) -> Iterator[JobRun]:
    """Give the run of a job: that of one that was broken off, or a new one.

    The run ends FINISHED with the block, FAILED where the job refuses its work, and KILLED where it
    is interrupted or killed: then the next job with this marker goes on in it.

    Args:
        runs: where it is recorded.
        marker: the file that says in which run a job goes on; it goes when the job ends.
        begin: opens a new run.
        is_whole: raises KeyError, TypeError or ValueError where what a marker says of the job is
            damaged, which then begins anew.
        what: the kind of job, for people.
        tell: hears that a job goes on.
    """
    run = _kept(runs, marker, is_whole)
    if run is not None:
        tell(f"going on with the {what} that was broken off (run {run.id})")
    else:
        run = begin()
        write_marker(marker, {"run": run.id, **run.said})
    try:
        yield run
    except BaseException as error:
        failed = isinstance(error, CompressError)
        with clearing_up():
            runs.close(run.id, "FAILED" if failed else "KILLED")
        if failed:
            forget(marker)
        raise
    runs.close(run.id)
    forget(marker)


def _kept(
    runs: NasRuns, marker: Path, is_whole: Callable[[Mapping[str, Any]], object]
) -> JobRun | None:
    def parse(said: Any) -> JobRun:
        is_whole(said)
        if not _RUN.fullmatch(said["run"]):
            raise ValueError(f"{shown(said['run'])} is no run")
        return JobRun(str(said["run"]), {k: v for k, v in said.items() if k != "run"})

    kept = read_marker(marker, parse)
    return kept if kept is not None and runs.goes_on(kept.id) else None
