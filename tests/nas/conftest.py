"""A tiny supernet and its project, trained once for all tests that only read it."""

import shutil

import numpy as np
import pytest
import yaml

from mlflow_compress.config.nas import load_nas_config
from mlflow_compress.jobs.nas import supernet as nas_job
from tests.nas.made import bars

SPACE = {
    "resolutions": [8, 12],
    "stem": 8,
    "head": 16,
    "stages": [
        {"channels": 8, "depth": [1, 2], "kernel": [3, 5], "width": [1, 2], "squeeze": True},
        {"channels": 12, "stride": 2, "depth": [1, 2], "kernel": [3, 5], "width": [1, 2],
         "convolution": "regular"},
    ],
}  # fmt: skip
TRAIN = {"full": 3, "kernel": 1, "depth": 1, "width": 2, "batch": 32, "learning_rate": 0.2}
SPECIALIZE = {
    "recipes": [[], [{"quantize": {}}]],
    "samples": 10,
    "calibration": 6,
    "population": 20,
    "generations": 3,
    "finalists": 2,
    "keep": 1,
    "rounds": 4,
}


def write_project(folder, **changes):
    """Write a space.yaml and its rows into a folder; return the file."""
    folder.mkdir(exist_ok=True)
    for name, seed, rows in (("train", 0, 500), ("evaluation", 1, 200)):
        images, labels = bars(rows, seed)
        np.savez(folder / f"{name}.npz", image=images, labels=labels)
    data = {
        "name": "bars",
        "tracking_uri": "sqlite:///mlflow.db",
        "data": {"train": "train.npz", "evaluation": "evaluation.npz"},
        "space": SPACE,
        "train": TRAIN | {"checkpoint_folder": "checkpoints"},
        "specialize": SPECIALIZE,
        "targets": [
            {
                "name": "desk",
                "measured_on": "local",
                "objective": "accuracy",
                "limits": {"size": "50kB"},  # which the largest subnet breaks
            },
        ],
    }
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(data | changes))
    return file


@pytest.fixture(scope="session")
def trained_project(migrated_database, tmp_path_factory):
    """A folder with a trained, registered supernet, and what training it told."""
    folder = tmp_path_factory.mktemp("supernet")
    file = write_project(folder)
    shutil.copy(migrated_database, folder / "mlflow.db")
    told = []
    return folder, nas_job.train(load_nas_config(file), told.append), told
