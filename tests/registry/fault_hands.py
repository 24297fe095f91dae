"""What hands do to a registry beside promotion, for ``faults.py``."""

from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from mlflow_compress.registry.promotion import promote
from tests.registry.fault_job import PATIENCE, SMALL, BrokenError, in_process, job, must


def move(client: MlflowClient, name: str, version: str) -> None:
    client.set_registered_model_alias(name, "small", str(3 - int(version)))


def remove(client: MlflowClient, name: str, _version: str) -> None:
    client.delete_registered_model_alias(name, "small")


def delete(client: MlflowClient, name: str, version: str) -> None:
    client.delete_model_version(name, version)


def edit(client: MlflowClient, name: str, version: str) -> None:
    client.set_model_version_tag(name, version, "compress.accuracy", "0.99")


def edit_source(client: MlflowClient, name: str, version: str) -> None:
    client.set_model_version_tag(name, version, "compress.source", "models:/lenet/99")


HANDS = (
    (move, "kept", "by hand"),
    (remove, "kept", "was removed by hand"),
    (delete, "promoted", "has been deleted"),
    (edit, "promoted", "tag compress.accuracy says 0.99"),
    (edit_source, "promoted", "tag compress.source was edited"),
)


def hands(uri: str, models: list[Path]) -> int:
    """Change by hand what a job has promoted; return in how many ways.

    Every change is noticed, named in the decision, and not undone silently.
    """
    for number, (change, outcome, words) in enumerate(HANDS):
        name = f"hand-{number}"
        must(in_process(lambda n=name: job(uri, n, models)), 0, "a job that nothing is done to")

        def changed(
            name: str = name,
            change: Callable[[MlflowClient, str, str], None] = change,
            outcome: str = outcome,
            words: str = words,
        ) -> None:
            client = MlflowClient(uri)
            small = client.get_registered_model(name).aliases["small"]
            change(client, name, small)
            before = client.get_registered_model(name).aliases
            (decision,) = promote(client, name, [SMALL], patience=PATIENCE)
            after = client.get_registered_model(name).aliases
            if decision.outcome != outcome or words not in decision.reason:
                raise BrokenError(f"{decision.outcome}: {decision.reason}")
            if outcome == "kept" and after != before:
                raise BrokenError(f"aliases {before} became {after}")
            if outcome == "promoted" and after.get("small") == small:
                raise BrokenError(f"alias 'small' is still on version {small}")

        must(in_process(changed), 0, f"promotion after a change by hand: {words}")
    return len(HANDS)
