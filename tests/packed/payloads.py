"""Arrays of every kind, and payloads that code them: for tests of the codec and as fuzz seeds."""

import numpy as np

from mlflow_compress.packed.codec import choose


def arrays_of(size, seed=0):
    """Named arrays that between them make the writer use every kind but context and rows."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(size)
    book = np.sort(rng.standard_normal(200)).astype(np.float32)
    few = np.sort(rng.standard_normal(12)).astype(np.float32)
    sparse = rng.random(size) < 0.9
    return {
        "int8": np.clip(normal * 30, -127, 127).astype(np.int8),
        "int8_sparse": np.where(sparse, 0, normal * 30).astype(np.int8),
        "int8_zero_point": np.where(rng.random(size) < 0.997, 7, normal * 30).astype(np.int8),
        "fp32": normal.astype(np.float32),
        "fp32_sparse": np.where(sparse, 0, normal).astype(np.float32),
        "fp16": normal.astype(np.float16),
        "fp64": normal,
        "fp64_sparse": np.where(sparse, 0, normal),
        "codebook": book[np.clip(normal * 30 + 100, 0, 199).astype(int)],
        "codebook_sparse": np.where(sparse, np.float32(0), few[rng.integers(0, 12, size)]),
        "codebook_few": few[rng.integers(0, 12, size)],
        "int64_few": rng.integers(-3, 3, size) * 1000,
        "wide": np.round(normal * 200).astype(np.float32),
        "wide_int16": np.round(normal * 300).astype(np.int16),
        "binary": (normal > 0).astype(np.int8),
        "ternary": (normal > 0.4).astype(np.int8) - (normal < -0.4),
        "constant": np.full(size, 3.5, np.float32),
        "noise": rng.integers(0, 256, size).astype(np.uint8),
        "deep": np.minimum(rng.geometric(0.5, size), 30).astype(np.uint8),
    }


def structured(rows=520, row=64, seed=0):
    """Rows of different kinds, and rows whose neighbours are alike: name, array, row, taps."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([1.0, 3.0, 10.0, 40.0], (rows, 1))
    mixed = np.clip(rng.standard_normal((rows, row)) * scale, -127, 127).astype(np.int8)
    walk = np.cumsum(rng.standard_normal((rows, row)), axis=1) * 6
    alike = np.clip(walk, -127, 127).astype(np.int8)
    hollow = np.where(rng.random((rows, row)) < 0.8, 0, mixed).astype(np.int8)
    floats = (rng.standard_normal((rows, row)) * scale**4).astype(np.float32)
    return {
        "rows": (mixed, row, 0),
        "rows_sparse": (hollow, row, 0),
        "rows_fp32": (floats, row, 0),
        "rows_bf16": ((floats.view(np.uint32) >> 16).astype(np.uint16), row, 0),
        "context": (alike, row, row),
    }


FLOATS = ("rows_fp32", "rows_bf16")


def samples(small=False):
    """Name, payload, items, bytes per item."""
    for name, array in arrays_of(1500 if small else 40000).items():
        payload = choose.encode(array.tobytes(), array.itemsize, array.dtype.kind == "f")
        yield name, payload, array.size, array.itemsize
    for name, (array, row, taps) in structured().items():
        payload = choose.encode(array.tobytes(), array.itemsize, name in FLOATS, row, taps)
        yield name, payload, array.size, array.itemsize
