"""A task that a tiny convolutional network learns in a second: where the bright bar is."""

import numpy as np

from mlflow_compress.techniques.data import TrainData

CLASSES = 4


def bars(rows, seed=0, size=12):
    """Images of [rows, 1, size, size] with a bar in one of four directions, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    images = rng.normal(0, 0.3, (rows, 1, size, size)).astype(np.float32)
    places = rng.integers(2, size - 2, (rows, 2))
    steps = np.array([(0, 1), (1, 0), (1, 1), (1, -1)])
    for index in range(rows):
        for step in range(-2, 3):
            y, x = places[index] + step * steps[labels[index]]
            if 0 <= y < size and 0 <= x < size:
                images[index, 0, y, x] += 1.5
    return images, labels.astype(np.int64)


def bars_data(rows=600, seed=0):
    images, labels = bars(rows, seed)
    return TrainData({"image": images}, labels, digest="bars")
