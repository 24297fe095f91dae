"""Which variant a target gets, and why: pure, total, fail-closed.

Everything here is a function of records. A metric that is missing, not finite, out of its
range or measured on other rows fails its gate and says so; nothing raises, nothing is guessed.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from mlflow_compress.records import Decision, Gate, Variant
from mlflow_compress.registry.gates import check
from mlflow_compress.registry.order import (
    best_of,
    comparable,
    dominates,
    generation,
    improvement,
    objective_text,
    quality,
    yardstick,
    yardstick_text,
)
from mlflow_compress.targets import Target, bound_of

__all__ = ["best_for", "check", "closest", "decide", "feasible", "gap_text", "todays_rows"]

Outcome = Literal["promoted", "kept"]


def feasible(variant: Variant, target: Target, rows: str | None = None) -> bool:
    """Say whether ``variant`` passes every gate of ``target``."""
    return all(gate.passed for gate in check(variant, target, rows))


def decide(
    variants: Sequence[Variant],
    target: Target,
    incumbent: Variant | None = None,
    rows: str | None = None,
) -> Decision:
    """Decide which registered version the target's alias should point to.

    Among the variants that pass every gate and that none of them dominates, the best by the
    target's objective wins. Variants of a newer source version go before those of an older
    one, unless they are worse than the best older one by more than the target's ``max_drop``.
    An incumbent that still passes is kept unless the winner is better by ``min_improvement``.
    Numbers of different metrics or rows are never compared: a variant with labels goes before
    one that has only its agreement with the source, and neither replaces the other.

    Args:
        variants: registered variants; those without a version are left out.
        target: the edge target.
        incumbent: what the alias points to now, with today's numbers; None when unset.
        rows: digest of today's evaluation rows, by default :func:`todays_rows`; metrics of
            other rows are stale.

    Returns:
        A decision that depends on nothing but the arguments, and not on their order.
    """
    pool = _by_version(variants, incumbent)
    if rows is None:
        rows = todays_rows(list(pool.values()), target, incumbent)
    gates = {version: check(variant, target, rows) for version, variant in pool.items()}
    passing = [pool[version] for version in pool if all(g.passed for g in gates[version])]
    current = incumbent.version if incumbent is not None else None

    def settled(version: int | None, reason: str) -> Decision:
        outcome: Outcome = "kept" if version == current else "promoted"
        return Decision(target.name, outcome, version, current, reason, gates)

    winner = _choose(passing, target)
    if winner is None:
        near = closest(list(pool.values()), target, rows)
        if near is None or near.version is None:
            reason = "no variant is registered"
            return Decision(target.name, "none feasible", current, current, reason, gates)
        reason = f"none of {len(pool)} variants passes; version {near.version} comes closest: "
        reason += gap_text(near, target, rows)
        return Decision(target.name, "none feasible", current, current, reason, gates, near.version)
    held = next((one for one in passing if one.version == current), None)
    if held is not None and not _replaces(winner, held, target):
        return settled(current, _kept_text(held, winner, target, len(passing)))
    return settled(winner.version, _won_text(winner, passing, target, incumbent, held))


def todays_rows(
    variants: Sequence[Variant], target: Target, incumbent: Variant | None = None
) -> str | None:
    """Say which evaluation rows count as today's when nobody has named them.

    Those of the incumbent; when there is none, it cannot be read or it is quarantined for the
    target, those of the newest version that has an accuracy, else of the newest that has an
    agreement. The incumbent's go first because that is the safe side: what replaces it must be
    better on the same rows, and a newer version that does well on a few easy rows is stale
    rather than better. At worst nothing moves, and a promotion with the configuration, which
    scores the incumbent anew, does. Only a quarantined incumbent has to go, on whatever rows.
    Whether it passes its other gates is not asked: a tighter limit could then change the rows,
    and let a variant pass that was stale before.

    Args:
        variants: registered variants, in any order.
        target: the edge target.
        incumbent: what the alias points to now, None when unset or not to be read.

    Returns:
        The digest of the rows, None when nothing was measured on any.
    """
    if incumbent is not None and target.name not in incumbent.quarantined:
        known = _rows_of(incumbent)
        if known is not None:
            return known
    newest = sorted(variants, key=lambda one: (one.version or 0, one.key, repr(one)), reverse=True)
    labelled = (one for one in newest if one.report.accuracy is not None)
    return next((rows for one in (*labelled, *newest) if (rows := _rows_of(one))), None)


def _rows_of(variant: Variant) -> str | None:
    measured = variant.report.accuracy or variant.report.fidelity
    return None if measured is None else measured.dataset.digest


def best_for(
    variants: Sequence[Variant], target: Target, rows: str | None = None
) -> tuple[Variant | None, bool]:
    """Return what a target would get of variants that may not be registered yet.

    Returns:
        The best feasible variant and True, or the one that comes closest and False
        (None and False when there are no variants).
    """
    winner = _choose([one for one in variants if feasible(one, target, rows)], target)
    return (winner, True) if winner is not None else (closest(variants, target, rows), False)


def closest(variants: Sequence[Variant], target: Target, rows: str | None = None) -> Variant | None:
    """Return the variant that misses the target by least: fewest unknowns, then least excess."""

    def miss(variant: Variant) -> tuple[int, float, tuple[int, str, str], float, int, str]:
        failed = [gate for gate in check(variant, target, rows) if not gate.passed]
        excess = sum(_excess(gate) for gate in failed if gate.value is not None)
        size = variant.report.size_bytes
        size = size if isinstance(size, int) else 2**62
        unknown = sum(gate.value is None for gate in failed)
        return (unknown, excess, yardstick(variant), -quality(variant), size, variant.key)

    return min(variants, key=miss, default=None)


def gap_text(variant: Variant, target: Target, rows: str | None = None) -> str:
    """Say in one line which gates of ``target`` the variant fails, and by how much."""
    failed = (gate for gate in check(variant, target, rows) if not gate.passed)
    return "; ".join(f"{gate.name}: {gate.reason}" for gate in failed)


def _excess(gate: Gate) -> float:
    """How far beyond its limit a value is, as a share of the limit."""
    value = gate.value if gate.value is not None else math.inf
    distance = abs(value - gate.limit)
    return distance / abs(gate.limit) if gate.limit else distance


def _by_version(variants: Iterable[Variant], incumbent: Variant | None) -> dict[int, Variant]:
    """Index registered variants by version, the incumbent's newer record in its place."""
    known = sorted(
        (one for one in variants if one.version is not None),
        key=lambda one: (one.version, one.key, repr(one)),
    )
    pool = {one.version: one for one in reversed(known) if one.version is not None}
    if incumbent is not None and incumbent.version is not None:
        pool[incumbent.version] = incumbent
    return dict(sorted(pool.items()))


def _choose(passing: Sequence[Variant], target: Target) -> Variant | None:
    """Return the best of the newest source version that does not regress too far."""
    chosen: Variant | None = None
    for _, group in groupby(sorted(passing, key=generation), key=generation):
        fresh = [one for one in group if chosen is None or not _regresses(one, chosen, target)]
        chosen = best_of(fresh, target) or chosen
    return chosen


def _regresses(new: Variant, old: Variant, target: Target) -> bool:
    """Whether ``new`` loses more than the target's ``max_drop`` against an older source's.

    Numbers of different metrics or rows are not compared: each has passed its own gates.
    """
    allowed = bound_of(target, "accuracy_drop")
    if allowed is None or new.report.accuracy is None or yardstick(new) != yardstick(old):
        return False
    return quality(old) - quality(new) > allowed


def _replaces(winner: Variant, held: Variant, target: Target) -> bool:
    if winner.version == held.version:
        return False
    if generation(winner) != generation(held):
        return True
    gain = improvement(winner, held, target)
    better = gain > 0 or (gain == 0 and dominates(winner, held, target))
    return better and gain >= target.min_improvement


def _name(variant: Variant) -> str:
    return f"version {variant.version} ({variant.recipe.label}, {variant.report.rate:.1f}x)"


def _kept_text(held: Variant, winner: Variant, target: Target, count: int) -> str:
    if winner.version == held.version:
        text = objective_text(held, target)
        return f"{_name(held)} is still the best of {count} feasible: {text}"
    if not comparable(winner, held, target):
        return (
            f"{_name(held)} stays: {yardstick_text(winner)} of version {winner.version} "
            f"cannot be compared with its {yardstick_text(held)}"
        )
    gain = 100 * improvement(winner, held, target)
    unit = "points" if target.objective == "accuracy" else "%"
    return (
        f"{_name(held)} stays: version {winner.version} is better by {gain:.3g} {unit}, "
        f"less than the {100 * target.min_improvement:.3g} {unit} that a change needs"
    )


def _won_text(
    winner: Variant,
    passing: Sequence[Variant],
    target: Target,
    incumbent: Variant | None,
    held: Variant | None,
) -> str:
    text = f"{_name(winner)} is the best of {len(passing)} feasible: "
    text += objective_text(winner, target)
    if incumbent is None:
        return text
    if held is None:
        return f"{text}; version {incumbent.version} fails its gates today"
    if generation(winner) != generation(held):
        if generation(winner) > generation(held):
            return f"{text}; it comes from the newer source {winner.source}"
        return f"{text}; version {held.version} lost more accuracy than the target allows"
    return f"{text}; version {held.version} has {objective_text(held, target)}"
