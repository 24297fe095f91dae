"""Where the runs that belong to a registered model are: its experiments, as its own tags name them.

Runs are told by their tags, and anybody may write runs with any tags into an experiment of their
own. Only who may edit the registered model names an experiment here, so that nobody else's runs
are taken for its decisions.
"""

from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_compress.tracking.names import EXPERIMENT

__all__ = ["experiments_of", "name_experiment"]


def experiments_of(client: Any, model: str, own: str = "") -> list[str]:
    """Return the ids of a registered model's experiments.

    Args:
        client: an ``MlflowClient``.
        model: the registered model; it need not exist.
        own: an experiment that counts in any case.
    """
    try:
        tags = client.get_registered_model(model).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        tags = {}
    named = {tag.removeprefix(EXPERIMENT) for tag in tags if tag.startswith(EXPERIMENT)}
    return sorted({one for one in (*named, own) if one})


def name_experiment(client: Any, model: str, experiment_id: str) -> None:
    """Name an experiment as one of a registered model's; nothing where there is no such model."""
    try:
        client.set_registered_model_tag(model, EXPERIMENT + experiment_id, "yes")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
