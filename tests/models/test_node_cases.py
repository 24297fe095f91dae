"""onnx's own cases of every operator come back bit for bit, and are kept by what must lose nothing.

The suite runs a sample; ``make nodes`` runs all of them.
"""

import json
import os
import subprocess
import sys
from collections import Counter

from tests.models.node_cases import EXACT, FAULTS, NO_SOURCE, Verdict

EVERYTHING = bool(os.environ.get("MLFLOW_COMPRESS_ALL_NODES"))


def told(*arguments):
    """The verdicts, from a process that starts no thread before it forks."""
    command = [sys.executable, "-m", "tests.models.node_cases", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]


def test_every_operator_is_kept_or_refused_by_name():
    verdicts = told() if EVERYTHING else told("--every", "20")
    assert [one for one in verdicts if one.verdict in FAULTS] == []
    counts = Counter(one.verdict for one in verdicts)
    print(dict(counts))
    assert len({one.case for one in verdicts}) > (1800 if EVERYTHING else 90)
    # what is told above is told of most: onnxruntime runs them, and nothing refuses them
    assert counts[EXACT] > 0.7 * counts.total() > counts[NO_SOURCE]
