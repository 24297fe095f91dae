"""A sample of ``faults.py``, which kills jobs, lets requests fail and races promoters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_compress


def last_line(folder, *options):
    """Run the harness; return the line of counts that it ends with."""
    home = str(Path(mlflow_compress.__file__).parents[1])
    there = os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-m", "tests.registry.faults", "--rounds", "1", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{there}" if there else home},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_killed_jobs_and_racing_promoters_leave_nothing_half_done(tmp_path):
    last = last_line(tmp_path, "--stores", "direct", "--kills", "4")
    assert last == "promoters=8 kills=4 faults=0 lost=0 duplicates=0"


@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    reason="no PostgreSQL: tests/tools/install_servers.sh installs it",
)
def test_servers_on_sqlite_and_postgresql_survive_kills_faults_and_races(tmp_path):
    pytest.importorskip("psycopg2")
    stores = ("--stores", "server", "postgresql")
    last = last_line(tmp_path, *stores, "--kills", "2", "--faults", "2", "--promoters", "4")
    # Two requests that fail and two servers that die, on each.
    assert last == "promoters=8 kills=4 faults=8 lost=0 duplicates=0"
