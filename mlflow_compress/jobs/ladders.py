"""What is tried for the smallest file: ladders of recipes, from gentle to strong."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_compress import techniques
from mlflow_compress.records import Profile, Recipe, Step

__all__ = ["EFFORTS", "Ladder", "folded", "ladders"]

EFFORTS = range(1, 6)

_FOLD = Step("fold", {"names": True})

_ROWS = (2048, 8192, 16384, 32768, 65536)
"""At most so many calibration rows are looked at, by effort; more rows make better fits."""

_GENTLE = (8.0, 7.0, 6.0)
"""Bits per weight with which the ladder of entropy_share begins."""


@dataclass(frozen=True)
class Ladder:
    """Recipes from gentle to strong, each rung smaller and worse than the one before."""

    name: str
    rungs: tuple[Recipe, ...]


def folded(profile: Profile) -> Recipe:
    """Return the recipe that loses nothing."""
    return techniques.validate_recipe(Recipe((_FOLD,), profile))


def ladders(effort: int, profile: Profile, has_calibration: bool) -> tuple[Ladder, ...]:
    """Return what is tried: more ladders with more rungs the higher the effort, 1 to 5."""
    made = []
    for name, rungs in _plans(effort, has_calibration):
        recipes = [Recipe((_FOLD, *steps), profile) for steps in rungs]
        made.append(Ladder(name, tuple(techniques.validate_recipe(r) for r in recipes)))
    return tuple(made)


def _plans(effort: int, has_calibration: bool) -> Iterator[tuple[str, list[tuple[Step, ...]]]]:
    counts = (6, 14, 30, 60, 120)[effort - 1]  # bisection: twice as many cost one trial more
    yield "float16", [(Step("float16"),)]
    yield "8 bits", [(Step("weight_only", {"bits": 8}),)]
    clusters = (256, 128, 64, 32, 16, 8, 4)[: 5 if effort == 1 else 7]
    if not has_calibration:
        yield "share", [(Step("share", {"clusters": n}),) for n in clusters]
        for n in ((16,), (16, 32), (16, 32, 8), (16, 32, 8, 64), (16, 32, 8, 64, 4))[effort - 1]:
            share = Step("share", {"clusters": n})
            yield (
                f"prune + share {n}",
                [(Step("prune", {"sparsity": s}), share) for s in _spread(0.3, 0.9, counts)],
            )
        return
    looks = {"rows": _ROWS[effort - 1]}
    yield (
        "entropy_share",
        [(Step("entropy_share", {"bits": b, **looks}),) for b in _bits(counts)],
    )
    if effort == 1:
        return  # the strongest one alone: nothing else is as small as often
    yield "share", [(Step("share", {"clusters": n}),) for n in clusters]
    for s in ((), (0.85,), (0.75, 0.85), (0.65, 0.8, 0.9, 0.95), (0.5, 0.7, 0.8, 0.9, 0.95))[
        effort - 1
    ]:
        prune = Step("prune", {"sparsity": s, "repair": True, **looks})
        yield (
            f"prune {s:g} + entropy_share",
            [
                (prune, Step("entropy_share", {"bits": b, **looks}))
                for b in _geometric(_where(s) + 4 * (1 - s), 0.1, counts)
            ],
        )
    for ratio, s in ((), ((0.25, 0.75),), ((0.25, 0.75), (0.5, 0.6)),
                     ((0.15, 0.75), (0.3, 0.75), (0.5, 0.6)),
                     ((0.15, 0.75), (0.25, 0.75), (0.4, 0.7), (0.5, 0.6)))[effort - 1]:  # fmt: skip
        shrink = Step("shrink", {"ratio": ratio, **looks})
        prune = Step("prune", {"sparsity": s, "repair": True, **looks})
        yield (
            f"shrink {ratio:g} + prune {s:g} + entropy_share",
            [
                (shrink, prune, Step("entropy_share", {"bits": b, **looks}))
                for b in _geometric(_where(s) + 4 * (1 - s), 0.1, counts)
            ],
        )
    for n in ((), (), (16,), (8, 16, 32), (8, 16, 32, 64))[effort - 1]:
        share = Step("share", {"clusters": n})
        yield (
            f"prune + share {n}",
            [
                (Step("prune", {"sparsity": s, "repair": True, **looks}), share)
                for s in _spread(0.5, 0.97, counts)
            ],
        )


def _bits(count: int) -> list[float]:
    """Return bits per weight from what hardly any output notices to what few bear."""
    return [*_GENTLE, *_geometric(5.0, 0.15, count)]


def _where(sparsity: float) -> float:
    """Return the bits per weight that it takes to say which are zero."""
    return -sum(p * math.log2(p) for p in (sparsity, 1 - sparsity))


def _spread(low: float, high: float, count: int) -> list[float]:
    return [round(low + (high - low) * i / (count - 1), 4) for i in range(count)]


def _geometric(high: float, low: float, count: int) -> list[float]:
    return [round(high * (low / high) ** (i / (count - 1)), 4) for i in range(count)]
