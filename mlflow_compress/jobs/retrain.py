"""The job for schedulers: nothing is done twice, and one job at a time works on a model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_compress.base.about import plugin_version
from mlflow_compress.base.foreign import no_exit
from mlflow_compress.config.compress import Config
from mlflow_compress.errors import CompressError
from mlflow_compress.jobs import compress as job
from mlflow_compress.jobs.prepare import Plan, make_plan, metric_of
from mlflow_compress.mlflow_plugin import connect
from mlflow_compress.recording.retrain import JobRuns
from mlflow_compress.records import Decision, Variant, digest_of
from mlflow_compress.targets.profile import target_data
from mlflow_compress.tracking.names import variants_name
from mlflow_compress.tracking.patience import without_password
from mlflow_compress.tracking.source import identify, source_name

if TYPE_CHECKING:
    from mlflow_compress.measure import Dataset

__all__ = ["Result", "failed", "retrain"]

# What says where and how fast trials run, and not what comes of them.
_WITHOUT_EFFECT = {"cache", "cache_folder", "executor", "workers", "cluster", "wait"} | {
    "checkpoint_folder"
}
# Has a place of its own in the key, or changes no outcome; a key of before must stay the same.
_NO_PART = {"source", "trust", "tracking_uri", "data", "targets"}
# A device that gave nothing, a server that was away: the next job must try again.
_FINAL = (0, 3)


@dataclass(frozen=True)
class Result:
    """What came of a job, as plain data that one line of JSON holds.

    Attributes:
        source: the source's URI with its version resolved; as configured when it was not found.
        registered_model: the registered model of the variants.
        tracking_uri: where all of it is recorded.
        trials: how many were ``run`` now, ``reused``, ``failed`` and ``dropped``.
        targets: per target its name, ``outcome``, ``version``, ``incumbent``, ``rate``, ``drop``
            and ``reason``; version, rate and drop are those of the version it is on now.
        problems: by target, what went wrong on its device.
        exit_code: what the command line exits with.
        skipped: nothing was done; the rest is what the original job came to.
        error: what ended the job, None when nothing did.
    """

    source: str | None = None
    registered_model: str | None = None
    tracking_uri: str | None = None
    trials: Mapping[str, int] = field(default_factory=dict)
    targets: tuple[Mapping[str, Any], ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0
    skipped: bool = False
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return asdict(self)


@no_exit("a plugin or a function of the configuration")
def retrain(
    config: Config, *, wait: float = 0.0, watcher: job.Watcher | None = None
) -> tuple[Result, job.Outcome | None]:
    """Run the job, unless one with the same source version and configuration was finished.

    Args:
        config: a checked configuration.
        wait: seconds to wait for another job on the same registered model.
        watcher: is told how it goes.

    Returns:
        The result, and what the job did; None in its place when there was nothing to do.

    Raises:
        BusyError: another job is at work on the registered model.
        CompressError: as :func:`mlflow_compress.jobs.compress.run`.
    """
    watcher = watcher or job.Watcher()
    watcher.stage("looking for what was done already")
    plan = make_plan(config, {})
    client = connect(config.tracking_uri)
    uri, content = identify(config.source, client)
    name = variants_name(source_name(uri, client), config.register_as)
    key = _job_key(plan, content, name)
    runs = JobRuns(client, config.experiment or name, name)
    known = runs.verdict(key)
    if known is not None:
        return _repeated(known), None
    with runs.hold(uri, wait) as run_id:
        # While this job waited for its turn, another one may have done the work.
        known = runs.verdict(key)
        if known is not None:
            return _repeated(known), None
        # The alias may move while this runs: the version that was looked up is the one.
        # nobody looks on: code in a model runs where the configuration says so, and nowhere else
        told = {"source": uri, "trust": config.trust is True}
        outcome = job.run(config.model_copy(update=told), watcher=watcher)
        result = _result(outcome)
        if result.exit_code in _FINAL:
            runs.finish(run_id, key, result.to_dict())
    return result, outcome


def failed(config: Config | None, error: BaseException) -> Result:
    """Return the result of a job that an error ended, with the exit code it ends with."""
    interrupted = isinstance(error, KeyboardInterrupt)
    text = "stopped; finished trials are kept and will be reused" if interrupted else str(error)
    code = error.exit_code if isinstance(error, CompressError) else 130 if interrupted else 1
    return Result(
        source=config.source if config else None,
        registered_model=config.register_as if config else None,
        tracking_uri=without_password(config.tracking_uri or "") or None if config else None,
        exit_code=code,
        error=" ".join(text.split()) or type(error).__name__,
    )


def _job_key(plan: Plan, content: str, name: str) -> str:
    """Return a digest of all that a job's verdict comes from, wherever its files lie."""
    config = plan.config
    data = config.model_dump(mode="json", exclude=_NO_PART)
    for without in _WITHOUT_EFFECT:
        del data["search"][without]
    return digest_of(
        {
            "plugin": plugin_version(),
            "source": content,
            "register_as": name,
            "config": data,
            "metric": metric_of(config.data).plain,
            "evaluation": _digest(plan.evaluation),
            "calibration": _digest(plan.calibration),
            "train": _digest(plan.train),
            "targets": [target_data(target) for target in config.targets],
        }
        | _said_of_inputs(config)
    )


def _said_of_inputs(config: Config) -> dict[str, Any]:
    """Return what is said of the model's inputs; nothing for most models."""
    if not config.data.inputs and config.data.stream is None:
        return {}
    return {"inputs": config.data.model_dump(mode="json", include={"inputs", "stream"})}


def _digest(rows: "Dataset | None") -> str | None:
    return None if rows is None else rows.digest


def _repeated(verdict: Mapping[str, Any]) -> Result:
    trials = dict.fromkeys(verdict["trials"], 0)
    targets = tuple(verdict["targets"])
    return Result(**{**verdict, "trials": trials, "targets": targets, "skipped": True})


def _result(outcome: job.Outcome) -> Result:
    states: list[str] = [trial.state for trial in outcome.trials]
    names = {"run": "complete", "reused": "reused", "failed": "failed", "dropped": "dropped"}
    by_version = {variant.version: variant for variant in outcome.registered}
    return Result(
        source=outcome.source,
        registered_model=outcome.registered_as,
        tracking_uri=without_password(outcome.tracking_uri),
        trials={name: states.count(state) for name, state in names.items()},
        targets=tuple(_target(one, by_version) for one in outcome.decisions),
        problems=dict(outcome.problems),
        exit_code=outcome.exit_code,
    )


def _target(decision: Decision, by_version: Mapping[int | None, Variant]) -> dict[str, Any]:
    variant = by_version.get(decision.version) if decision.version is not None else None
    accuracy = variant.report.accuracy if variant else None
    return {
        "target": decision.target,
        "outcome": decision.outcome,
        "version": decision.version,
        "incumbent": decision.incumbent,
        "rate": variant.report.rate if variant else None,
        "drop": accuracy.drop if accuracy else None,
        "reason": decision.reason,
    }
