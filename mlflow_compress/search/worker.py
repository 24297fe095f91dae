"""One trial as a pure function: what runs on a worker, and what comes back."""

import logging
import pickle
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.errors import CompressError, named
from mlflow_compress.records import Recipe, Report, Variant
from mlflow_compress.search.evaluator import Evaluator, Watch
from mlflow_compress.search.screen import DroppedError, Screen
from mlflow_compress.techniques.data import Epoch

__all__ = ["Outcome", "pack_evaluator", "run_shared", "run_timed", "run_trial", "time_shared"]

_log = logging.getLogger(__name__)

State = Literal["complete", "dropped", "failed"]

_HELD: dict[str, Any] = {}
"""The evaluator that this process used last, by its digest, with its folder: unpacking one takes a
while."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        state: ``complete``, ``dropped`` or ``failed``.
        seconds: how long it took.
        variant: the variant, when complete.
        path: its packed file, when that lies on this machine.
        data: its packed file, when it was made elsewhere.
        error: why it is not complete.
        partial: what was measured of one that was dropped.
        steps: how many steps the recipe has.
        reused_steps: how many of them were there already.
        epochs: the epochs that were trained and not told of yet.
    """

    state: State
    seconds: float
    variant: Variant | None = None
    path: str = ""
    data: bytes | None = None
    error: str = ""
    partial: Report | None = None
    steps: int = 0
    reused_steps: int = 0
    epochs: tuple[Epoch, ...] = ()


def run_trial(
    evaluator: Evaluator,
    recipe: Recipe,
    key: str,
    screen: Screen | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Try a recipe; an accident of one recipe is an outcome, not an error."""
    started = time.monotonic()

    def after() -> float:
        return time.monotonic() - started

    try:
        made = evaluator.make(recipe, key, screen, watch)
    except DroppedError as error:
        return Outcome("dropped", after(), error=str(error), partial=error.report)
    except CompressError as error:
        return Outcome("failed", after(), error=" ".join(str(error).split()))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one recipe's accident must not end the search
        _log.debug("%s failed", recipe.label, exc_info=True)
        return Outcome("failed", after(), error=named(error))
    return Outcome(
        "complete",
        after(),
        made.variant,
        made.path,
        steps=made.steps,
        reused_steps=made.reused_steps,
    )


def pack_evaluator(evaluator: Evaluator) -> bytes:
    """Return what a worker needs to try recipes, as bytes."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(evaluator)
    return data


def run_shared(
    shared: bytes | str, digest: str, recipe: Recipe, key: str, screen: bytes
) -> Outcome:
    """Try a recipe on a worker.

    Args:
        shared: the packed evaluator, or the file that holds it.
        digest: its sha256.
        recipe: what to try.
        key: the trial's key.
        screen: what is known of what targets take, pickled.
    """
    epochs: list[Epoch] = []
    known = pickle.loads(screen)
    outcome = run_trial(_evaluator(shared, digest), recipe, key, known, epochs.append)
    outcome = replace(outcome, epochs=tuple(epochs))
    if not outcome.path:
        return outcome
    path = Path(outcome.path)
    data = path.read_bytes()
    path.unlink()
    return replace(outcome, path="", data=data)


def run_timed(evaluator: Any, variant: Variant, path: Path) -> tuple[Variant | None, str]:
    """Return the variant with its latency, or why it cannot be measured."""
    try:
        return evaluator.timed(variant, path), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one variant's accident must not end the search
        _log.debug("%s cannot be timed", variant.recipe.label, exc_info=True)
        return None, f"its latency: {named(error)}"


def time_shared(
    shared: bytes | str, digest: str, variant: Variant, data: bytes
) -> tuple[Variant | None, str]:
    """Measure a variant's latency on a worker; see :func:`run_shared` and :func:`run_timed`."""
    with ScratchFolder() as folder:
        path = Path(folder) / "variant.onnx"
        path.write_bytes(data)
        return run_timed(_evaluator(shared, digest), variant, path)


def _evaluator(shared: bytes | str, digest: str) -> Any:
    if digest not in _HELD:
        _HELD.clear()
        # from the search that started this worker, which could run anything here anyway
        made = pickle.loads(Path(shared).read_bytes() if isinstance(shared, str) else shared)
        # beside the evaluator the job deletes it, elsewhere this process does, when it is done
        if isinstance(shared, str):
            folder = tempfile.TemporaryDirectory(
                prefix="worker-", dir=Path(shared).parent, ignore_cleanup_errors=True
            )
        else:
            folder = ScratchFolder()
        _HELD[digest] = (made.at(Path(folder.name)), folder)
    return _HELD[digest][0]
