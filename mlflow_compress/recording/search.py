"""A search as MLflow runs: a parent, a nested run per trial, a logged model per variant."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags

from mlflow_compress import report as reporting
from mlflow_compress.base.clearing import clearing_up
from mlflow_compress.errors import CompressError
from mlflow_compress.mlflow_plugin import flavor
from mlflow_compress.recording.earlier import Earlier
from mlflow_compress.recording.metrics import epoch_metrics, recipe_params, report_metrics
from mlflow_compress.records import DatasetRef, Recipe, Trial, Variant, to_dict
from mlflow_compress.search.observer import Epoch, Observer, SearchInfo
from mlflow_compress.tracking.client import connect, ensure_experiment
from mlflow_compress.tracking.names import (
    DROPPED,
    ERROR,
    KEY,
    KIND,
    NUMBER,
    OWNER,
    RECIPE,
    RECIPE_JSON,
    REPORT_FILE,
    SENSITIVITY_FILE,
    SOURCE,
    SOURCE_DIGEST,
    STRATEGY,
    UNIT,
)
from mlflow_compress.tracking.owner import is_abandoned, owner
from mlflow_compress.tracking.patience import PATIENCE
from mlflow_compress.tracking.runs import RunWriter, metric_entities

__all__ = ["Tracker"]

_NOTE = "mlflow.note.content"
# MLflow cuts run tags at 8000 characters; a table cut in the middle is unreadable.
_NOTE_LIMIT = 8000
# The smallest variants have their layers drawn; a menu of hundreds helps nobody.
_DRAWN = 30
# Seconds; an open search on another host counts as dead after this.
_MAX_AGE = 24 * 3600


class Tracker(Observer):
    """Keeps the record of searches in one MLflow experiment; an ``Observer`` of the search.

    Nothing of MLflow's global state is left changed: no active run, no tracking URI.

    Args:
        experiment: the experiment's name; made when it is missing.
        tracking_uri: where to; MLflow's current tracking URI by default.
        input_example: rows to log with each model, an array or arrays by input name.
        bundle_code: log this package's code with each model.
        patience: seconds that each call to MLflow is retried for.

    Raises:
        UnreachableError: the server or store cannot be reached or written.
    """

    def __init__(
        self,
        experiment: str,
        tracking_uri: str | None = None,
        *,
        input_example: Any = None,
        bundle_code: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.experiment = experiment
        self.client = connect(tracking_uri)
        self._input_example = input_example
        self._bundle_code = bundle_code
        experiment_id = ensure_experiment(self.client, experiment, patience)
        self._runs = RunWriter(self.client, experiment_id, resolve_tags(), patience)
        self._info: SearchInfo | None = None
        self._search_id = ""
        self._open: dict[int, str] = {}
        self._epochs: Counter[tuple[str, str]] = Counter()
        self._earlier = Earlier(self._runs)
        self._evaluation: DatasetRef | None = None
        # Here and not when a search starts: one that reuses every trial never starts.
        self._sweep()

    @property
    def search_run_id(self) -> str:
        """The run of the search that was started last, empty before."""
        return self._search_id

    @property
    def experiment_id(self) -> str:
        """The experiment's id."""
        return self._runs.experiment_id

    def finished_trials(self, keys: Sequence[str]) -> Mapping[str, Trial]:
        """Return earlier complete trials among ``keys`` whose model is still there."""
        return self._earlier.trials(keys)

    def search_started(self, info: SearchInfo) -> None:
        """Open the parent run."""
        self._info = info
        self._evaluation = info.datasets.get("evaluation")
        self._search_id = self._runs.create_run(
            info.name,
            {
                KIND: "search",
                OWNER: owner(),
                SOURCE: info.source,
                SOURCE_DIGEST: info.source_digest,
                STRATEGY: info.strategy,
            },
        )
        params = {
            "source": info.source,
            "source_bytes": str(info.source_bytes),
            "strategy": info.strategy,
            "planned_trials": "unknown" if info.planned is None else str(info.planned),
        }
        self._runs.log_params(self._search_id, params)
        self._runs.log_datasets(self._search_id, info.datasets)
        config = json.dumps(dict(info.config), indent=2, sort_keys=True, default=str)
        self._runs.log_text(self._search_id, config, "config.json")

    def trial_started(self, number: int, recipe: Recipe, key: str) -> None:
        """Open a trial's nested run."""
        tags = {
            KIND: "trial",
            KEY: key,
            OWNER: owner(),
            RECIPE: recipe.label,
            RECIPE_JSON: recipe.to_json(),
            NUMBER: str(number),
        }
        run_id = self._runs.create_run(recipe.label, tags, parent=self._search_id)
        self._open[number] = run_id
        self._runs.log_params(run_id, recipe_params(recipe))

    def trial_trained(self, number: int, epochs: Sequence[Epoch]) -> None:
        """Log the numbers of epochs as metrics, one step per epoch."""
        run_id = self._open[number]
        for epoch in epochs:
            # a technique may train twice, each time from epoch 1; a training may go on from any
            step = max(self._epochs[run_id, epoch.technique] + 1, epoch.epoch)
            self._epochs[run_id, epoch.technique] = step
            self._runs.log_numbers(run_id, epoch_metrics(epoch), step=step)

    def trial_finished(self, trial: Trial) -> Trial:
        """Log a trial's model, numbers, tables and report, and end its run."""
        run_id = self._open[trial.number]
        if trial.state == "dropped":
            self._close_dropped(run_id, trial)
            del self._open[trial.number]
            return trial
        if trial.variant is None:
            self._runs.set_tag(run_id, _NOTE, f"Failed: {trial.error}")
            self._runs.set_tag(run_id, ERROR, trial.error)
            self._runs.close(run_id, "FAILED")
            del self._open[trial.number]
            return trial
        model_id = self._log_model(run_id, trial, trial.variant)
        variant = replace(trial.variant, model_uri=f"models:/{model_id}", run_id=run_id)
        finished = replace(trial, variant=variant)
        try:
            self._log_trial(run_id, model_id, finished, variant)
            self._runs.close(run_id, "FINISHED")
        except BaseException:
            with clearing_up():
                self._runs.discard_model(model_id)
            raise
        del self._open[trial.number]
        return finished

    def _close_dropped(self, run_id: str, trial: Trial) -> None:
        """End the run of a trial that was not measured to the end; it is not reused."""
        self._runs.set_tag(run_id, _NOTE, f"Dropped: {trial.error}")
        self._runs.set_tag(run_id, DROPPED, trial.error)
        if trial.partial is not None:
            # An accuracy on fewer rows would stand beside others as if it were one of them.
            numbers, _ = report_metrics(replace(trial.partial, accuracy=None, fidelity=None))
            self._runs.log_numbers(run_id, numbers)
        self._runs.close(run_id, "FINISHED")

    def _log_model(self, run_id: str, trial: Trial, variant: Variant) -> str:
        if not trial.path:
            raise CompressError(f"trial {trial.number} ({trial.recipe.label}) left no packed file")

        def save(path: Path, record: Model) -> None:
            flavor.save_model(
                trial.path,
                path,
                mlflow_model=record,
                input_example=self._input_example,
                raw_bytes=variant.report.source_bytes,
                bundle_code=self._bundle_code,
            )

        tags = {KEY: trial.key, RECIPE: trial.recipe.label}
        params = recipe_params(trial.recipe)
        return self._runs.log_model(run_id, trial.recipe.label, params, tags, save)

    def _log_trial(self, run_id: str, model_id: str, trial: Trial, variant: Variant) -> None:
        report = variant.report
        name = f"{trial.recipe.label} · {report.rate:.1f}x"
        self._runs.rename(run_id, name)
        self._runs.log_datasets(run_id, self._info.datasets if self._info else {})
        dataset = self._evaluation
        if report.accuracy is not None:
            dataset = report.accuracy.dataset
        numbers, quality = report_metrics(report)
        metrics = metric_entities(run_id, numbers, model_id=model_id)
        metrics += metric_entities(run_id, quality, model_id=model_id, dataset=dataset)
        note = f"**{name}**, variant of `{variant.source}`\n\n{reporting.stage_markdown(report)}"
        if slower := reporting.format_slower(report):
            note += f"\n\n{slower}"
        layers = {"layers/layers.json": reporting.layer_rows(report)}
        tags = {_NOTE: _cut(note), **self._runs.write_tables(run_id, layers)}
        if report.accuracy is not None and report.accuracy.unit != "share":
            tags[UNIT] = report.accuracy.unit
        self._runs.log_batch(run_id, metrics, tags)
        self._log_report(run_id, trial)

    def _log_report(self, run_id: str, trial: Trial) -> None:
        plain = replace(trial, path="", state="complete")
        text = json.dumps(to_dict(plain), indent=1, sort_keys=True)
        self._runs.log_text(run_id, text, REPORT_FILE)

    def trial_measured(self, trial: Trial) -> None:
        """Add to a finished trial's record what was measured on devices since."""
        if trial.variant is None:
            return
        run_id, model_id = trial.variant.run_id, trial.variant.model_uri.rpartition("/")[2]
        numbers, _ = report_metrics(trial.variant.report)
        known = self._runs.do("read the trial", lambda: self.client.get_run(run_id)).data.metrics
        new = {name: value for name, value in numbers.items() if name not in known}
        if new:
            self._runs.log_numbers(run_id, new, model_id=model_id)
        self._log_report(run_id, trial)

    def search_finished(self, trials: Sequence[Trial], status: str) -> None:
        """Log what came of the search and end its run, and those of trials that it broke off in."""
        try:
            while self._open:
                number = next(iter(self._open))
                broken = "KILLED" if status == "KILLED" else "FAILED"
                self._discard_trial(self._open.pop(number), broken)
            if status == "FINISHED":
                self._summarise(trials)
        except BaseException:
            with clearing_up():
                self._runs.close(self._search_id, "FAILED")
            raise
        self._runs.close(self._search_id, status)

    def _summarise(self, trials: Sequence[Trial]) -> None:
        run_id = self._search_id
        complete = [trial for trial in trials if trial.variant is not None]
        rates = [trial.variant.report.rate for trial in complete if trial.variant is not None]
        numbers = {
            "trials": len(trials),
            "trials_failed": sum(trial.state == "failed" for trial in trials),
            "trials_dropped": sum(trial.state == "dropped" for trial in trials),
            "steps": sum(trial.steps for trial in trials),
            "steps_reused": sum(trial.reused_steps for trial in trials),
        }
        self._runs.log_numbers(run_id, numbers | ({"best_rate": max(rates)} if rates else {}))
        self._runs.set_tag(run_id, _NOTE, self._note(trials))
        rows = reporting.trial_rows(trials)
        self._runs.log_tables(run_id, {"trials/trials.json": rows})
        if complete:
            html = reporting.front_figure(trials).to_html(include_plotlyjs=True)
            self._runs.log_text(run_id, html, "pareto/pareto.html")
            variants = [trial.variant for trial in complete if trial.variant is not None]
            variants.sort(key=lambda one: one.report.size_bytes)
            html = reporting.layers_menu_figure(variants[:_DRAWN]).to_html(include_plotlyjs=True)
            self._runs.log_text(run_id, html, "layers/layers.html")

    def _note(self, trials: Sequence[Trial]) -> str:
        info = self._info
        failed = [trial for trial in trials if trial.state == "failed"]
        lines = [
            f"**{info.name}**: `{info.source}` compressed, strategy {info.strategy}, "
            f"{len(trials)} trials, {len(failed)} failed."
            if info
            else "",
            "",
            reporting.front_markdown(trials),
            "",
            *(f"- failed: {trial.recipe.label}: {trial.error}" for trial in failed),
            "",
            "Figures: `pareto/pareto.html`, `layers/layers.html`. Table: `trials/trials.json`.",
        ]
        return _cut("\n".join(lines))

    def log_sensitivity(
        self,
        source: str,
        source_digest: str,
        rows: Sequence[Mapping[str, Any]],
        rows_of: DatasetRef,
        notes: str = "",
    ) -> str:
        """Log what each layer bears as a run of its own, a table and a figure; return its id.

        Args:
            source: the source's URI with its version resolved.
            source_digest: sha256 of its ONNX bytes.
            rows: one per layer, technique and level.
            rows_of: the rows that it was measured on.
            notes: what the search made of it.
        """
        tags = {
            KIND: "sensitivity",
            OWNER: owner(),
            SOURCE: source,
            SOURCE_DIGEST: source_digest,
        }
        run_id = self._runs.create_run("sensitivity per layer", tags)
        self._runs.log_datasets(run_id, {"calibration": rows_of})
        self._runs.log_tables(run_id, {SENSITIVITY_FILE: rows})
        html = reporting.sensitivity_figure(rows).to_html(include_plotlyjs=True)
        self._runs.log_text(run_id, html, "sensitivity/sensitivity.html")
        if notes:
            self._runs.log_text(run_id, notes, "sensitivity/notes.txt")
        self._runs.close(run_id, "FINISHED")
        return run_id

    def _discard_trial(self, run_id: str, status: str) -> None:
        """End a trial's run that will not be finished, without the model it may have begun."""
        what = "look for the trial's model"
        for model in self._runs.do(what, lambda: self._runs.models_of(run_id)):
            self._runs.discard_model(model.model_id)
        self._runs.close(run_id, status)

    def _sweep(self) -> None:
        """End runs that jobs which died left open, and delete the models they had begun."""
        query = f"tags.`{OWNER}` LIKE '%' AND attributes.status = 'RUNNING'"

        def search() -> list[Any]:
            return list(self.client.search_runs([self.experiment_id], query))

        for run in self._runs.do("look for abandoned runs", search):
            tags = run.data.tags
            if tags.get(KIND) in (
                "trial",
                "search",
                "sensitivity",
                "nas-specialize",
            ) and is_abandoned(tags[OWNER], run.info.start_time, _MAX_AGE):
                self._discard_trial(run.info.run_id, "KILLED")


def _cut(text: str) -> str:
    if len(text) <= _NOTE_LIMIT:
        return text
    return text[: text.rfind("\n", 0, _NOTE_LIMIT - 2)] + "\n…"
