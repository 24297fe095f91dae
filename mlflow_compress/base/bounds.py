"""How large a number from outside may be: one list, for files, options and settings alike.

Whoever writes a number too many must hear it before anything is started for it, and nothing here is
so low that somebody who means it would miss it.
"""

from dataclasses import dataclass

__all__ = [
    "BATCH",
    "COUNT",
    "EPOCHS",
    "JOBS",
    "ROUNDS",
    "SECONDS",
    "SEED",
    "THREADS",
    "TRIALS",
    "VERSION",
    "WIDTH",
    "WORKERS",
    "Bound",
    "most_processes",
]


@dataclass(frozen=True)
class Bound:
    """The least and the most that a number may be, both included."""

    least: int
    most: int


TRIALS = Bound(1, 1_000_000)
"""Recipes of a search, subnets, generations."""

WORKERS = Bound(1, 1024)
"""Trials at a time, on a cluster too; :func:`most_processes` bounds those of this machine."""

JOBS = Bound(1, 64)
"""Jobs of the webhook at a time, each a process of its own."""

THREADS = Bound(1, 1024)
"""Threads and cores of a device."""

ROUNDS = Bound(0, 10_000)
"""Interleaved rounds of a measurement; each takes a twentieth of a second for each model."""

EPOCHS = Bound(0, 10_000)
"""Passes over the rows to train on."""

BATCH = Bound(1, 1_000_000)
"""Rows of one step of a training."""

WIDTH = Bound(1, 4096)
"""Channels, blocks and pixels of a network to be built."""

SECONDS = Bound(0, 30 * 86_400)
"""Waiting; the system's clocks take no number of any size."""

SEED = Bound(0, 2**31 - 1)
"""What numpy, optuna and torch all take, with room for the seeds made of it."""

VERSION = Bound(1, 2**31 - 1)
"""Versions of a registered model; a database's integer."""

COUNT = Bound(0, 10**9)
"""Anything else that is counted: rows, channels, entries of a list."""


def most_processes(cores: int) -> int:
    """Return how many processes a job may start on a machine; beyond, they only wait."""
    return max(16, 4 * cores)
