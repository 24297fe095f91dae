"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from mlflow_compress.cli.output import console
from mlflow_compress.jobs.compress import Watcher
from mlflow_compress.records import Trial
from mlflow_compress.report.tables import format_bytes, format_drop, format_quality
from mlflow_compress.techniques.data import Epoch

__all__ = ["progress"]


@contextmanager
def progress() -> Iterator[Watcher]:
    """Yield a watcher that shows a job's progress on stderr."""
    there = console(stderr=True)
    if not there.is_terminal:
        yield _Lines()
        return
    told = TextColumn("{task.description}", markup=False)
    columns = (told, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=there, transient=True) as bar:
        yield _Bar(bar)


def _outcome(trial: Trial) -> str:
    """Say in one line what came of a trial."""
    if trial.variant is None:
        return f"{trial.state}: {trial.error}"
    report = trial.variant.report
    text = f"{report.rate:.1f}x, {format_bytes(report.size_bytes)}"
    if report.accuracy is not None:
        text += f", {format_quality(report)}, drop {format_drop(report, with_unit=True)}"
    elif report.fidelity is not None:
        text += f", {report.fidelity.text}"
    return text + (" (reused)" if trial.state == "reused" else "")


class _Lines(Watcher):
    """One line per event, for logs."""

    def __init__(self) -> None:
        self._console = console(stderr=True, soft_wrap=True)

    def stage(self, text: str, total: int | None = None) -> None:
        self._console.print(text)

    def trial(self, trial: Trial) -> None:
        line = f"trial {trial.number}: {trial.recipe.label}: {_outcome(trial)}"
        self._console.print(line)


class _Bar(Watcher):
    """A bar that counts trials, with each trial's outcome scrolling above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)
        self._training: TaskID | None = None

    def stage(self, text: str, total: int | None = None) -> None:
        self._bar.reset(self._task, total=total, description=text)

    def trial(self, trial: Trial) -> None:
        line = f"  {trial.recipe.label}: {_outcome(trial)}"
        self._bar.console.print(line)
        self._bar.advance(self._task)
        if self._training is not None:
            self._bar.remove_task(self._training)
            self._training = None

    def epoch(self, epoch: Epoch) -> None:
        if self._training is None:
            self._training = self._bar.add_task("", total=epoch.epochs)
        text = f"  {epoch.technique}: loss {epoch.validation_loss:.4g}"
        if epoch.score is not None:
            text += f", {100 * epoch.score:.2f} %"
        self._bar.update(
            self._training, description=text, completed=epoch.epoch, total=epoch.epochs
        )
