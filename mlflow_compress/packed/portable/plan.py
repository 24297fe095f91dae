"""Chooses how each weight of a portable file is coded, functions counted in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from mlflow_compress.packed.portable.functions import (
    LEVEL_KINDS,
    SEGMENT_KINDS,
    STEPS,
    Reading,
    functions_bytes,
)
from mlflow_compress.packed.portable.tensor import Candidate

__all__ = ["SESSION_BYTES", "Plan", "choose"]

# Levels take about 56 bytes of transient memory for each symbol and level of the tree.
MERGE_FROM = 1 << 16
DIRECTORY = 60  # the metadata entry around the directory's entries
LEVELS_LIMIT = (48 << 20) // 56
# What decoding may take of memory, by Candidate.transient(); some 9 million dense int8 weights.
SESSION_BYTES = 512 << 20
# ONNX Runtime folds outputs of up to 1 GiB; the largest is 8 slots of 2 bytes for each byte.
STREAMS_LIMIT = 1 << 26
# Of the file: what may be given up for a quarter to a half of the memory.
LITTLE = 1 / 256


@dataclass(frozen=True)
class Plan:
    """The kind of each candidate (None: leave it raw) and the bytes per segment."""

    kinds: tuple[str | None, ...]
    step: int
    bytes: int

    @property
    def merge(self) -> bool:
        """Whether memory counts more than the 100 bytes that saving it takes."""
        return self.bytes > MERGE_FROM


def choose(candidates: Sequence[Candidate], opset: int, session_bytes: int = SESSION_BYTES) -> Plan:
    """Choose the kinds that make the file smallest, within what a session may take in memory.

    A set of kinds is allowed, each weight takes the cheapest of them, and the functions that the
    set needs are added: of all sets the smallest total wins. Where decoding all that would take
    more than ``session_bytes``, weights that save least for the memory they take stay raw.
    """
    raw = sum(candidate.raw_bytes + 6 for candidate in candidates)
    best = Plan((None,) * len(candidates), min(STEPS), raw)
    for step in STEPS:
        costs = [dict(candidate.costs(step)) for candidate in candidates]
        for allowed in _sets(step):
            plan = _cheapest(candidates, costs, allowed, step, opset, session_bytes)
            if plan.bytes < best.bytes and _affordable(candidates, plan):
                best = plan
    return best


def _sets(step: int) -> Iterator[frozenset[str]]:
    families = [SEGMENT_KINDS, LEVEL_KINDS] if step == min(STEPS) else [SEGMENT_KINDS]
    for family in families:
        kinds = [*sorted(family), "Fixed"]
        for size in range(1, len(kinds) + 1):
            for chosen in combinations(kinds, size):
                yield frozenset(chosen)


def _cheapest(
    candidates: Sequence[Candidate],
    costs: Sequence[dict[str, int]],
    allowed: frozenset[str],
    step: int,
    opset: int,
    session_bytes: int,
) -> Plan:
    kinds: list[str | None] = []
    for candidate, cost in zip(candidates, costs, strict=True):
        raw = candidate.raw_bytes + 6
        kind = min(sorted(allowed & cost.keys()), key=cost.__getitem__, default=None)
        kinds.append(kind if kind is not None and cost[kind] < raw else None)
    _leave_raw(candidates, costs, kinds, session_bytes)
    _even_out(candidates, costs, kinds)
    total = _total(candidates, costs, kinds)
    used = frozenset(kind for kind in kinds if kind is not None)
    reading = Reading(used, step, merge=total > MERGE_FROM)
    return Plan(tuple(kinds), step, total + DIRECTORY + functions_bytes(reading, opset))


def _total(
    candidates: Sequence[Candidate], costs: Sequence[dict[str, int]], kinds: Sequence[str | None]
) -> int:
    return sum(
        candidate.raw_bytes + 6 if kind is None else cost[kind]
        for candidate, cost, kind in zip(candidates, costs, kinds, strict=True)
    )


def _even_out(
    candidates: Sequence[Candidate], costs: Sequence[dict[str, int]], kinds: list[str | None]
) -> None:
    """Keep streams of very short codes out where they bring little.

    All streams are decoded with as many slots as the shortest code of any asks for: the constant
    zero points of a small layer would multiply the memory that all dense weights take.
    """
    total = _total(candidates, costs, kinds)
    slots = [0 if k is None else c.slots(k) for c, k in zip(candidates, kinds, strict=True)]
    for most in (4, 2):
        mine = [place for place, number in enumerate(slots) if number == most]
        if len(mine) == sum(map(bool, slots)):
            return
        tried = list(kinds)
        for place in mine:
            fixed = costs[place].get("Fixed", candidates[place].raw_bytes + 6)
            tried[place] = "Fixed" if fixed < candidates[place].raw_bytes + 6 else None
            slots[place] = 0
        if _total(candidates, costs, tried) - total > LITTLE * total:
            return
        kinds[:] = tried


def _leave_raw(
    candidates: Sequence[Candidate],
    costs: Sequence[dict[str, int]],
    kinds: list[str | None],
    session_bytes: int,
) -> None:
    """Set kinds to None where memory is not enough, for those first that save least with it."""
    held = []
    for place, kind in enumerate(kinds):
        if kind is not None:
            candidate = candidates[place]
            taken, stream = candidate.transient(kind)
            saved = candidate.raw_bytes + 6 - costs[place][kind]
            held.append((-saved / max(taken, 1), place, taken, stream))
    memory, streams = session_bytes, STREAMS_LIMIT
    for _, place, taken, stream in sorted(held):
        if taken <= memory and stream <= streams:
            memory -= taken
            streams -= stream
        else:
            kinds[place] = None


def _affordable(candidates: Sequence[Candidate], plan: Plan) -> bool:
    work = sum(
        candidate.levels_work(kind)
        for candidate, kind in zip(candidates, plan.kinds, strict=True)
        if kind in LEVEL_KINDS
    )
    return work <= LEVELS_LIMIT
