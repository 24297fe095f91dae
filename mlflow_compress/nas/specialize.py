"""Finds the subnet for a target: evolution over what is predicted, then measuring.

Once-for-All, arXiv 1908.09791, section 3.4: an accuracy predictor and a latency table stand in for
training and measuring while an evolution looks for the best. Both only choose what is worth the
effort: the finalists are scored on rows held out and measured on the target.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mlflow_compress.nas.latency import LatencyTable
from mlflow_compress.nas.predictor import Predictor
from mlflow_compress.nas.space import Bounds, Space, Subnet
from mlflow_compress.targets import Target, limits_of
from mlflow_compress.targets.limits import Source

__all__ = [
    "Evolution",
    "Found",
    "ShrinkStep",
    "TargetSearch",
    "evolve",
    "merit",
    "shrink_path",
    "specialize",
    "spread",
]

_MARGIN = 0.97
"""Finalists are looked for within so much of each limit."""

_TIGHTER = 0.93
"""The next margin, when no finalist keeps the limits as measured."""

_ROUNDS = 3

_KNOWN: tuple[Source, ...] = ("file", "device", "labels")
"""What a subnet's numbers are read from; nothing is compared with a source's outputs here."""


@dataclass(frozen=True)
class Found:
    """A subnet with its numbers.

    Attributes:
        subnet: which.
        accuracy: on the rows held out, 0 to 1.
        ms: milliseconds for one row on the target, the median of all calls.
        weights: how many it has.
        measured: whether ``ms`` was measured, else it comes from the table.
    """

    subnet: Subnet
    accuracy: float
    ms: float
    weights: int
    measured: bool = True


@dataclass(frozen=True)
class ShrinkStep:
    """One step of the mode shrink.

    Attributes:
        kind: what was shrunk: ``resolution``, ``kernel``, ``depth`` or ``width``; empty at the
            start.
        bound: to which bound.
        found: the subnet with its numbers.
        kept: whether the step stays; one that breaks the limits of accuracy is taken back.
    """

    kind: str
    bound: int | None
    found: Found
    kept: bool = True


@dataclass(frozen=True)
class TargetSearch:
    """What a target's search needs.

    Attributes:
        target: the target.
        space: the subnets.
        score: returns the accuracy of a subnet on the rows held out.
        measure: returns the milliseconds of subnets on the target, interleaved.
        count: returns how many weights a subnet has.
        largest: accuracy of the largest subnet, which a drop is counted from.
        bytes_per_weight: what a weight will take in the file.
    """

    target: Target
    space: Space
    score: Callable[[Subnet], float]
    measure: Callable[[Sequence[Subnet]], Sequence[float]]
    count: Callable[[Subnet], int]
    largest: float
    bytes_per_weight: float = 4.0

    def found(self, subnets: Sequence[Subnet]) -> list[Found]:
        """Return subnets scored and measured."""
        times = self.measure(subnets)
        return [
            Found(subnet, self.score(subnet), float(ms), self.count(subnet))
            for subnet, ms in zip(subnets, times, strict=True)
        ]

    def excess(
        self, found: Found, margin: float = 1.0, sources: Sequence[Source] = _KNOWN
    ) -> float:
        """Return by how much limits are broken, summed; 0 is within. What is not known counts not.

        Args:
            found: the subnet.
            margin: share of the limits of latency and size that may be used.
            sources: limits on what is read from these count.
        """
        values = {
            "size": self.bytes_per_weight * found.weights,
            "latency_p50": found.ms,
            "latency_p95": found.ms,
            "accuracy": found.accuracy,
            "accuracy_drop": self.largest - found.accuracy,
        }
        limits = (
            limit if limit.source == "labels" else limit.within(margin)
            for limit in limits_of(self.target)
            if limit.name in values and limit.source in sources
        )
        return sum(max(0.0, limit.excess(values[limit.name])) for limit in limits)


def merit(target: Target, found: Found) -> float:
    """Return what a target's objective makes of a subnet; more is better."""
    if target.objective == "latency":
        return -found.ms
    if target.objective in ("size", "rate"):
        return -float(found.weights)
    if target.reward is not None:
        return target.reward.value(found.accuracy, found.ms)
    return found.accuracy


@dataclass
class Evolution:
    """How an evolution goes (Real et al., arXiv 1802.01548, as Once-for-All uses it).

    Attributes:
        population: subnets per generation.
        generations: how many.
        parents: share of the population that the next one comes from.
        mutation: chance of each choice to be drawn anew.
    """

    population: int = 100
    generations: int = 30
    parents: float = 0.25
    mutation: float = 0.1
    seed: int = 0
    seen: dict[Subnet, Found] = field(default_factory=dict)


def evolve(
    search: TargetSearch,
    predictor: Predictor,
    predict_ms: Callable[[Subnet], float],
    options: Evolution,
    margin: float = _MARGIN,
) -> list[Found]:
    """Return subnets as predicted, the best for the target first, each once.

    Args:
        search: the target and the space.
        predictor: of accuracies.
        predict_ms: of milliseconds.
        options: how.
        margin: share of the limits that may be used.
    """  # fmt: skip
    dice = random.Random(f"{options.seed} {search.target.name}")
    space, seen = search.space, options.seen

    def look(subnets: list[Subnet]) -> None:
        new = [subnet for subnet in dict.fromkeys(subnets) if subnet not in seen]
        if not new:
            return
        for subnet, accuracy in zip(new, predictor.predict(new), strict=True):
            ms, weights = predict_ms(subnet), search.count(subnet)
            seen[subnet] = Found(subnet, float(accuracy), ms, weights, measured=False)

    def order(subnet: Subnet) -> tuple[float, float]:
        found = seen[subnet]
        return search.excess(found, margin), -merit(search.target, found)

    ends = [space.smallest(), space.subnet()]
    population = ends + [space.draw(dice) for _ in range(options.population - 2)]
    look(population)
    for _ in range(options.generations):
        parents = sorted(dict.fromkeys(population), key=order)
        parents = parents[: max(2, round(options.parents * options.population))]
        children = []
        for index in range(options.population - len(parents)):
            child = dice.choice(parents)
            if index % 2:
                child = space.cross(child, dice.choice(parents), dice)
            children.append(space.mutate(child, dice, options.mutation))
        population = parents + children
        look(population)
    return [seen[subnet] for subnet in sorted(dict.fromkeys(population), key=order)]


def specialize(
    search: TargetSearch,
    predictor: Predictor,
    table: LatencyTable,
    predict_ms: Callable[[Subnet], float],
    options: Evolution,
    finalists: int = 6,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Found]:
    """Return the finalists as scored and measured, the best within the target's limits first.

    When none keeps the limits as measured, the next ones are looked for further inside them, up to
    three times.

    Args:
        search: the target and the space.
        predictor: of accuracies.
        table: only named in what is told.
        predict_ms: of milliseconds.
        options: of the evolution.
        finalists: how many are scored and measured.
        tell: hears of each finalist.
    """  # fmt: skip
    done: dict[Subnet, Found] = {}
    margin = _MARGIN
    for _ in range(_ROUNDS):
        ranked = evolve(search, predictor, predict_ms, options, margin)
        chosen = [one.subnet for one in ranked if one.subnet not in done][:finalists]
        for found in search.found(chosen):
            done[found.subnet] = found
            tell(
                f"{search.target.name}: {found.subnet}: {100 * found.accuracy:.2f} % held out, "
                f"{found.ms:.3f} ms on {table.device} (table: {predict_ms(found.subnet):.3f})"
            )
        if any(search.excess(found) == 0 for found in done.values()):
            break
        margin *= _TIGHTER
    return sorted(done.values(), key=lambda f: (search.excess(f), -merit(search.target, f)))


def shrink_path(
    search: TargetSearch,
    order: Sequence[str] = ("resolution", "kernel", "depth", "width"),
    tell: Callable[[ShrinkStep], None] = lambda step: None,
) -> list[ShrinkStep]:
    """Shrink one kind of choice after the other until the target's limits are met.

    From the largest subnet on, every step lowers one kind everywhere to the next choice, is scored
    and measured, and is taken back if it breaks a limit of accuracy.

    Args:
        search: the target and the space.
        order: the kinds, in order.
        tell: hears of each step.

    Returns:
        The steps, the largest subnet first; the last that was kept is the outcome.
    """
    space, limits = search.space, Bounds()
    steps = [ShrinkStep("", None, search.found([space.subnet()])[0])]
    tell(steps[0])
    for kind in order:
        for bound in _bounds(space, kind):
            if search.excess(_last(steps).found, sources=("file", "device")) == 0:
                return steps
            tried = replace(limits, **{kind: bound})
            found = search.found([space.subnet(tried)])[0]
            kept = search.excess(found, sources=("labels",)) == 0
            steps.append(ShrinkStep(kind, bound, found, kept))
            tell(steps[-1])
            if not kept:
                break
            limits = tried
    return steps


def _last(steps: Sequence[ShrinkStep]) -> ShrinkStep:
    return next(step for step in reversed(steps) if step.kept)


def _bounds(space: Space, kind: str) -> list[int]:
    """Return the bounds that a kind may be lowered to, so that every stage has a choice within."""
    if kind == "resolution":
        return list(space.resolutions[-2::-1])
    choices = [getattr(stage, kind) for stage in space.stages]
    values = sorted({value for stage in choices for value in stage}, reverse=True)
    least = max(stage[0] for stage in choices)
    return [value for value in values[1:] if value >= least]


def spread(space: Space, count: int, seed: int) -> list[Subnet]:
    """Return different subnets: the smallest, the largest, and others at random."""
    dice = random.Random(seed)
    chosen = {space.smallest(): None, space.subnet(): None}
    while len(chosen) < min(count, space.size):
        chosen[space.draw(dice)] = None
    return list(chosen)
