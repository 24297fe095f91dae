"""Sessions on one thread, and rows through them in batches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, SessionOptions


def opened(model: Path | bytes) -> InferenceSession:
    """Open a model in plain onnxruntime, on one thread that does not spin."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = model if isinstance(model, bytes) else str(model)
    return InferenceSession(given, options, providers=["CPUExecutionProvider"])


def batches(
    inputs: Mapping[str, np.ndarray], axes: Mapping[str, int | None], size: int
) -> list[dict[str, np.ndarray]]:
    """Cut inputs into feeds of ``size`` rows; ``axes`` names each input's axis of rows if not 0.

    ``None`` is for what is not per row: it goes into every feed as it is.
    """
    counts = {
        array.shape[axis]
        for name, array in inputs.items()
        if (axis := axes.get(name, 0)) is not None
    }
    (rows,) = counts
    feeds = []
    for start in range(0, rows, size):
        chosen = np.arange(start, min(start + size, rows))
        feeds.append(
            {
                name: array if (axis := axes.get(name, 0)) is None else array.take(chosen, axis)
                for name, array in inputs.items()
            }
        )
    return feeds


def outputs(session: InferenceSession, feeds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return each output's rows by name, feed after feed."""
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(None, feed) for feed in feeds]
    return {
        name: np.concatenate([np.atleast_1d(run[index]) for run in runs])
        for index, name in enumerate(names)
    }
