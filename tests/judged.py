"""Fidelities as they are measured, for tests of what is done with them."""

from mlflow_compress.records import DatasetRef, Fidelity, Interval, OutputFidelity


def fidelity(
    agreement: float, kl: float, rows: DatasetRef, *, margin: float = 0.0, level: float = 0.95
) -> Fidelity:
    """Return the fidelity of a model with one output of classes.

    Args:
        agreement: share of rows with the source's class.
        kl: nats.
        rows: what it was measured on.
        margin: how far both numbers' intervals reach to either side.
        level: of these intervals.
    """
    measures = {"agreement": agreement, "kl": kl}
    intervals = {
        name: Interval(value - margin, value + margin, level) for name, value in measures.items()
    }
    output = OutputFidelity("y", "classes", measures, intervals, decision="y")
    return Fidelity(agreement, kl, rows, (output,), agreement)
