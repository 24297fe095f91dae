"""Latency of a variant against its source, measured so that two equal models come out equal."""

import math
import time
from collections.abc import Mapping
from itertools import cycle, islice

import numpy as np

from mlflow_compress.measure.affinity import pinned
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.intervals import median_interval
from mlflow_compress.measure.runner import Runnable
from mlflow_compress.records import Latency

__all__ = ["drift_of", "is_tie", "measure_latency"]

_REPEATS, _WARMUPS = 20, 5
_ROUND_SECONDS = 0.25
"""Slow models get fewer calls per round: about so many seconds per model and round."""

Feed = Mapping[str, np.ndarray]


def measure_latency(  # noqa: PLR0913 - two models, one call, how to time it
    variant: Runnable,
    source: Runnable,
    dataset: Dataset,
    *,
    rounds: int = 15,
    batch: int = 1,
    threads: int = 1,
    device: str = "local",
    seed: int = 0,
    level: float = 0.95,
) -> Latency:
    """Measure both models interleaved on the first rows of a dataset.

    Each round times both in shuffled order, after warm-up calls, and keeps each one's fastest
    call; the ratio is the median over rounds, its interval comes from the bootstrap over rounds.
    The percentiles are over all timed calls. The calls are kept on as many cores as there are
    threads; sessions of several threads have to be opened within :func:`pinned` for that.

    Args:
        variant: an open session.
        source: an open session with the same threads.
        dataset: rows to run; calls go through up to eight different batches of them.
        rounds: how many rounds; 15 keeps two equal models within 5 %, fewer is quicker.
        batch: rows per call, where the model does not fix another number.
        threads: the sessions' threads.
        device: the device's name, for the record.
        seed: seeds the order and the bootstrap.
        level: the interval's confidence level.
    """
    batch = dataset.fed.batch or batch
    with pinned(threads):
        fastest, times = _rounds((variant, source), _feeds(dataset, batch), rounds, seed)
    ratios = fastest[:, 0] / fastest[:, 1]
    interval = median_interval(ratios, level=level, seed=seed)
    p50, p95 = np.quantile(times[0], [0.5, 0.95]) * 1e3
    return Latency(
        device=device,
        threads=threads,
        batch=batch,
        p50=float(p50),
        p95=float(p95),
        source_p50=float(np.median(times[1]) * 1e3),
        ratio=float(np.median(ratios)),
        ratio_interval=interval,
        drift=drift_of(fastest[:, 1]),
    )


def _rounds(
    models: tuple[Runnable, Runnable], feeds: list[Feed], rounds: int, seed: int
) -> tuple[np.ndarray, tuple[list[float], list[float]]]:
    """Return each round's fastest calls, [rounds, 2], and all of each model, in seconds."""
    counts = [_calls(model, feeds[0]) for model in models]
    rng = np.random.default_rng(seed)
    fastest = np.empty((rounds, 2))
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        for which in rng.permutation(2):
            spent = _time(models[which], feeds, *counts[which])
            fastest[index, which] = min(spent)
            times[which].extend(spent)
    return fastest, times


def drift_of(fastest: np.ndarray) -> float | None:
    """Return by what share the source got slower while it was measured; below 0 is faster.

    Args:
        fastest: [rounds] seconds of the source's fastest call of each round, in order.

    Returns:
        Median of the second half over that of the first, less 1; None below 4 rounds.
    """
    half = len(fastest) // 2
    if half < 2:
        return None
    return float(np.median(fastest[half:]) / np.median(fastest[:half]) - 1)


def is_tie(latency: Latency) -> bool:
    """Whether variant and source cannot be told apart: the ratio's interval holds 1."""
    return latency.ratio_interval.low <= 1 <= latency.ratio_interval.high


def _feeds(dataset: Dataset, batch: int) -> list[Feed]:
    count = max(1, min(8, dataset.rows // batch))
    return [dataset.fed.example(batch, first=i * batch) for i in range(count)]


def _calls(model: Runnable, feed: Feed) -> tuple[int, int]:
    """Return warm-up and timed calls per round, from the time of one call after a first."""
    once = min(_time(model, [feed], 1, 2))
    share = min(1.0, _ROUND_SECONDS / (once * (_REPEATS + _WARMUPS)))
    return max(1, math.floor(_WARMUPS * share)), max(5, math.floor(_REPEATS * share))


def _time(model: Runnable, feeds: list[Feed], warmups: int, repeats: int) -> list[float]:
    """Return the seconds of each timed call."""
    ready = islice(cycle(feeds), warmups + repeats)
    for feed in islice(ready, warmups):
        model.run(None, feed)
    spent = []
    for feed in ready:
        begin = time.perf_counter()
        model.run(None, feed)
        spent.append(time.perf_counter() - begin)
    return spent
