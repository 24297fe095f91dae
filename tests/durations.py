"""Which test files are left out of ``make test-fast``: those that take long.

.venv/bin/python -m pytest -n 2 --durations=0 | tee log; .venv/bin/python -m tests.durations log
"""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("slow.txt")
MOST = 2.5
"""Seconds that the tests of a file may take together, on two quiet cores."""


def slow():
    """Return the files that are left out, as paths."""
    return {ROOT / line for line in FILE.read_text(encoding="utf-8").split()}


def main(log):
    took = Counter()
    for line in Path(log).read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9.]+)s (?:call|setup|teardown)\s+(\S+?)::", line):
            took[found[2]] += float(found[1])
    left_out = sorted(file for file, seconds in took.items() if seconds > MOST)
    FILE.write_text("\n".join(left_out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
