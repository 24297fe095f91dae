"""How feasible variants are ordered: dominance, objectives, ties, generations of the source."""

import math
import re
from collections.abc import Callable, Sequence

from mlflow_compress.records import Latency, Variant
from mlflow_compress.targets import Target, format_size, latency_for

__all__ = [
    "best_of",
    "comparable",
    "dominates",
    "generation",
    "improvement",
    "objective_text",
    "quality",
    "strictly_faster",
    "yardstick",
    "yardstick_text",
]

_Yardstick = tuple[int, str, str]


def generation(variant: Variant) -> int:
    """Return the source's registered version (``models:/lenet/3`` is 3), 0 when it has none."""
    match = re.fullmatch(r"models:/.+/(\d+)", variant.source)
    return int(match.group(1)) if match else 0


def quality(variant: Variant) -> float:
    """Return accuracy (of an error, 1 minus it), or fidelity where no labels are, else -inf.

    Two of them can be compared when their :func:`yardstick` is the same.
    """
    report = variant.report
    if report.accuracy is not None:
        value = report.accuracy.value
        if isinstance(value, int | float):
            value = report.accuracy.score
    elif report.fidelity is not None:
        value = report.fidelity.quality
    else:
        return -math.inf
    return value if isinstance(value, int | float) and math.isfinite(value) else -math.inf


def yardstick(variant: Variant) -> _Yardstick:
    """Return what :func:`quality` was measured with; those of different ones are not compared.

    Returns:
        A class (0 for accuracy, 1 for fidelity without labels, 2 for what an older rule judged, 3
        for nothing), the metric's name and the digest of its rows. It sorts: a variant with labels
        goes before one without. Two metrics of one class go by name, which means no more than that
        it is always the same.
    """
    report = variant.report
    if report.fidelity is not None and not report.fidelity.is_whole:
        metric = "agreement" if report.accuracy is None else report.accuracy.metric
        return (2, f"{metric} by the older rule", report.fidelity.dataset.digest)
    if report.accuracy is not None:
        return (0, report.accuracy.metric, report.accuracy.dataset.digest)
    if report.fidelity is not None:
        return (1, "fidelity", report.fidelity.dataset.digest)
    return (3, "", "")


def yardstick_text(variant: Variant) -> str:
    """Return a variant's yardstick for a person, such as ``accuracy on rows 0a1b2c3d4e5f``."""
    _, metric, digest = yardstick(variant)
    return f"{metric} on rows {digest[:12]}"


def comparable(one: Variant, other: Variant, target: Target) -> bool:
    """Say whether the objective orders the two at all: its numbers mean the same for both."""
    by_quality = target.objective in ("accuracy", "reward")
    return not by_quality or yardstick(one) == yardstick(other)


def _usable(latency: Latency | None) -> bool:
    if latency is None:
        return False
    low, high = latency.ratio_interval.low, latency.ratio_interval.high
    return math.isfinite(latency.ratio) and latency.ratio > 0 and 0 < low <= high < math.inf


def strictly_faster(one: Variant, other: Variant, target: Target) -> bool:
    """Say whether ``one`` is faster beyond the intervals; overlapping intervals are a tie."""
    a, b = latency_for(one.report, target), latency_for(other.report, target)
    if a is None or b is None or not _usable(a) or not _usable(b):
        return False
    return a.ratio_interval.high < b.ratio_interval.low


def dominates(one: Variant, other: Variant, target: Target) -> bool:
    """Say whether ``one`` is nowhere worse than ``other`` and somewhere better.

    Compared are size, quality and latency (where a tie is neither). Where qualities are of
    different yardsticks, nobody can say that one is nowhere worse. Free of cycles: a cycle would
    need equal sizes and qualities all around, and then each strictly faster than the next.
    """
    if yardstick(one) != yardstick(other):
        return False
    size_a, size_b = one.report.size_bytes, other.report.size_bytes
    quality_a, quality_b = quality(one), quality(other)
    if size_a > size_b or quality_a < quality_b or strictly_faster(other, one, target):
        return False
    return size_a < size_b or quality_a > quality_b or strictly_faster(one, other, target)


def _reward(variant: Variant, target: Target) -> float:
    """MnasNet, section 3, equation 2: accuracy * (latency / T) ** w."""
    latency, reward = latency_for(variant.report, target), target.reward
    if latency is None or reward is None or not latency.p50 > 0:
        return -math.inf
    score = quality(variant)
    # A negative one, which an error above 1 makes, would gain by being slow.
    return reward.value(score, latency.p50) if score >= 0 else -math.inf


def _score(variant: Variant, target: Target) -> float:
    """Return the objective's value with more being better; latency is handled by intervals."""
    if target.objective == "size":
        return -float(variant.report.size_bytes)
    if target.objective == "rate":
        return variant.report.rate
    if target.objective == "reward":
        return _reward(variant, target)
    return quality(variant)


def _tail(variant: Variant) -> tuple[_Yardstick, float, float, int, str]:
    """What decides among equals: quality, size, then the older version, then the key."""
    version = variant.version if variant.version is not None else 2**62
    size = variant.report.size_bytes
    return (yardstick(variant), -quality(variant), size, version, variant.key)


def best_of(variants: Sequence[Variant], target: Target) -> Variant | None:
    """Return the best by the target's objective among those that no other dominates.

    Args:
        variants: feasible variants of one generation, in any order.
        target: the edge target.
    """
    front = [
        one
        for one in variants
        if not any(dominates(other, one, target) for other in variants if other is not one)
    ]
    if target.objective == "latency":
        # Only a variant that is slower beyond the intervals is out; a tie does not decide.
        front = [
            one for one in front if not any(strictly_faster(other, one, target) for other in front)
        ]
        return min(front, key=_tail, default=None)
    if target.objective in ("accuracy", "reward"):
        # Scores are ordered within a yardstick only.
        first = min(map(yardstick, front), default=None)
        front = [one for one in front if yardstick(one) == first]
    return min(front, key=lambda one: (-_score(one, target), *_tail(one)), default=None)


def improvement(challenger: Variant, incumbent: Variant, target: Target) -> float:
    """Return how much better the challenger is on the objective.

    Returns:
        A fraction of the incumbent's size, latency, rate or reward; points for accuracy
        (0.01 is one point). Latencies with overlapping intervals give 0, and so do accuracies
        that cannot be compared: no improvement was shown.
    """
    if not comparable(challenger, incumbent, target):
        return 0.0
    if target.objective == "latency":
        a, b = latency_for(challenger.report, target), latency_for(incumbent.report, target)
        if a is None or b is None:
            return 0.0
        if strictly_faster(challenger, incumbent, target):
            return 1.0 - a.ratio / b.ratio
        return a.ratio / b.ratio - 1.0 if strictly_faster(incumbent, challenger, target) else 0.0
    new, old = _score(challenger, target), _score(incumbent, target)
    if target.objective == "accuracy":
        return new - old
    return (new - old) / abs(old) if old else new - old


def objective_text(variant: Variant, target: Target) -> str:
    """Return the objective's value for a person, such as ``size 28.1 kB``."""
    texts: dict[str, Callable[[], str]] = {
        "size": lambda: f"size {format_size(variant.report.size_bytes)}",
        "rate": lambda: f"rate {variant.report.rate:.1f}x",
        "accuracy": lambda: f"{yardstick(variant)[1]} {quality(variant):.4f}",
        "reward": lambda: f"reward {_reward(variant, target):.4f}",
        "latency": lambda: _latency_text(variant, target),
    }
    return texts[target.objective]()


def _latency_text(variant: Variant, target: Target) -> str:
    latency = latency_for(variant.report, target)
    return "latency unknown" if latency is None else f"latency {latency.ratio:.2f}x the source's"
