"""The registered model that tests of operations work on."""

from mlflow_compress.registry import promote
from mlflow_compress.targets import AccuracyLimits, Limits, Target

NAME = "lenet-edge"
PI = Target("pi", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))


def aliases(client):
    return {name: int(v) for name, v in client.get_registered_model(NAME).aliases.items()}


def promote_pi(client, **options):
    (decision,) = promote(client, NAME, [PI], **options)
    return decision
