"""A sample of ``faults.py``, which kills jobs at every call and races promoters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow_compress

HARNESS = Path(__file__).with_name("faults.py")


def test_killed_jobs_and_racing_promoters_leave_nothing_half_done(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HARNESS), "--kills", "4", "--faults", "0", "--rounds", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(mlflow_compress.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"promoters=8 kills=4 faults=0 lost=0 duplicates=0", last), last
