"""Arabic names, spelled letter by letter in Latin script by a pair of models."""

import functools
import json
import sqlite3
from collections.abc import Mapping

import numpy as np
from onnxruntime import InferenceSession

from real.sessions import opened
from real.store import Rows, Store

LETTERS = 16  # of a source name, with its two prefixes and its end
_STEPS = 24
_PAD, _BEGIN, _END = 0, 1, 2
_CHOSEN = {"cal": slice(0, 400), "eval": slice(400, 1000)}
_ROWS = {"cal": 2000, "eval": 2000}

Arrays = Mapping[str, np.ndarray]


@functools.cache
def vocabulary(store: Store) -> tuple[str, ...]:
    """Return the letters and marks by number."""
    file = next(store.package("arabic-name-romanizer").rglob("resources/vocab.json"))
    return tuple(json.loads(file.read_text(encoding="utf-8"))["tokens"])


def sources(store: Store, part: str) -> dict[str, np.ndarray]:
    """Return names as numbers, [rows, 16], and where nothing stands."""
    number = {token: index for index, token in enumerate(vocabulary(store))}
    file = next(store.package("arabic-name-romanizer").rglob("names.sqlite3"))
    with sqlite3.connect(file) as database:
        found = database.execute(
            "SELECT DISTINCT arabic_key, country, role FROM units WHERE count > 1 "
            "ORDER BY arabic_key, country, role"
        ).fetchall()
    usable = [
        (key, f"<{country}>", f"<ROLE_{role.upper()}>")
        for key, country, role in found
        if 3 <= len(key) <= LETTERS - 3 and f"<{country}>" in number and set(key) <= set(number)
    ]
    # A name stands under several countries: it goes, with all of them, to one part only.
    keys = sorted({key for key, _, _ in usable})
    order = np.random.default_rng(41).permutation(len(keys))[_CHOSEN[part]]
    wanted, ids = {keys[index] for index in order}, {}
    for key, country, role in usable:
        if key in wanted:
            ids[key] = [number[country], number[role], *(number[letter] for letter in key), _END]
    padded = np.full((len(ids), LETTERS), _PAD, np.int64)
    for row, values in zip(padded, ids.values(), strict=True):
        row[: len(values)] = values
    return {"src": padded, "src_mask": padded == _PAD}


def encoder(store: Store, part: str) -> Rows:
    """Return names for the encoder."""
    return Rows(sources(store, part))


def decoder(store: Store, part: str) -> Rows:
    """Return single steps of the decoder as the source takes them, and the names of all steps."""
    names = sources(store, part)
    steps: list[dict[str, np.ndarray]] = []
    spelled(pair(store), names, steps)
    together = {key: np.concatenate([step[key] for step in steps]) for key in steps[0]}
    count = len(together["prefix"])
    chosen = np.random.default_rng(42).permutation(count)[: _ROWS[part]]
    return Rows({key: array[chosen] for key, array in together.items()}, names)


def pair(
    store: Store,
    encoder: InferenceSession | None = None,
    decoder: InferenceSession | None = None,
) -> tuple[InferenceSession, InferenceSession]:
    """Return encoder and decoder, the package's own where none is given."""
    folder = store.package("arabic-name-romanizer") / "arabic_name_romanizer" / "resources"
    return (
        encoder or opened(folder / "encoder.onnx"),
        decoder or opened(folder / "decoder.onnx"),
    )


def spelled(
    models: tuple[InferenceSession, InferenceSession],
    names: Arrays,
    steps: list[dict[str, np.ndarray]] | None = None,
) -> np.ndarray:
    """Return the most likely letters one after the other, [rows, 24]; ends and what follows are 0.

    ``steps`` gets what the decoder is fed while a name is not at its end.
    """
    memory, mask, hidden = models[0].run(
        ["memory_out", "src_mask_out", "hidden_out"],
        {"src": names["src"], "src_mask": names["src_mask"]},
    )
    last = np.full((len(memory), 1), _BEGIN, np.int64)
    written = np.zeros((len(memory), _STEPS), np.int64)
    going = np.ones(len(memory), bool)
    for step in range(_STEPS):
        feed = {"prefix": last, "memory": memory, "src_mask": mask, "hidden": hidden}
        if steps is not None:
            steps.append({name: array[going] for name, array in feed.items()})
        likely, hidden = models[1].run(["logprobs", "hidden_out"], feed)
        chosen = likely.argmax(axis=1)
        going &= chosen != _END
        if not going.any():
            break
        written[going, step] = chosen[going]
        last = chosen[:, None]
    return written
