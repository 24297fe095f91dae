"""Small artifacts of runs, which whoever may write runs can make as large as they like."""

from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_compress.base.scratch import ScratchFolder

__all__ = ["MOST_BYTES", "read_small"]

MOST_BYTES = 8 << 20
"""Of a report, a table or a verdict; the report of a model of 5,000 layers has 3 MB."""


def read_small(client: Any, run_id: str, path: str) -> str:
    """Return a text artifact of a run, whose size is asked for before it is fetched.

    Args:
        client: an MLflow client.
        run_id: the run.
        path: the artifact's, within the run.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is larger than any that is written here, or no text.
        MlflowException: the store says so.
    """
    folder = str(PurePosixPath(path).parent)
    listed = client.list_artifacts(run_id, None if folder == "." else folder)
    size = next((file.file_size for file in listed if file.path == path), None)
    if size is not None and size > MOST_BYTES:
        raise ValueError(f"{path} of run {run_id} has {size:,} bytes, at most {MOST_BYTES:,} do")
    with ScratchFolder() as into:
        found = Path(client.download_artifacts(run_id, path, into))
        if found.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} of run {run_id} has more than {MOST_BYTES:,} bytes")
        return found.read_text(encoding="utf-8")
