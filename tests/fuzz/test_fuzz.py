"""The fuzzer runs, for a short time, and what it finds is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(seconds, build, **environment):
    """Run the script; skip where there can be no clang."""
    done = subprocess.run(
        ["bash", "tests/fuzz/run.sh", str(seconds)],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "FUZZ_BUILD": str(build)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    return done


def test_ten_seconds_each_find_nothing(tmp_path):
    done = fuzz(10, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    count = int(done.stdout.rsplit("stat::number_of_executed_units:", 1)[1].split()[0])
    assert count > 1000


def test_a_byte_read_past_the_end_ends_in_failure(tmp_path):
    done = fuzz(20, tmp_path, FUZZ_CFLAGS="-DMLC_PLANTED", TARGETS="decode")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
