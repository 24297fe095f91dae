"""What is given twice is refused, wherever it is given."""

import pytest
from click.testing import CliRunner

from mlflow_compress.base.once import put_once
from mlflow_compress.cli.main import cli
from mlflow_compress.config.compress import parse_inputs
from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs import parse_text
from mlflow_compress.targets import device_for, target_limits
from mlflow_compress.techniques import get
from mlflow_compress.techniques.base import parse_settings


def test_both_values_are_named():
    with pytest.raises(ConfigError, match=r"--x k=2: k is given twice, 1 and 2: keep one"):
        put_once({"k": 1}, "k", 2, "--x k=2")


@pytest.mark.parametrize(
    "read",
    [
        lambda: parse_inputs(["h=axis:1,axis:2"]),
        lambda: parse_inputs(["h=axis:1", "h=state_of:hn"]),
        lambda: parse_text("out=boxes,scores:4,scores:5"),
        lambda: parse_text("out=boxes,kind:values"),
        lambda: target_limits({}, ["error=0.1", "error=0.5"]),
        lambda: target_limits({"max_kl": 0.1}, ["kl=0.5"]),
        lambda: target_limits({}, ["boxes.recall=0.9", "boxes.recall=0.5"]),
        lambda: device_for("ssh://host?python=a&python=b"),
        lambda: parse_settings(get("prune_layers"), {"layers": "fc1=0.5, fc1=0.9"}),
    ],
)
def test_the_last_one_does_not_win(read):
    with pytest.raises(ConfigError, match=r"is given twice.*keep one"):
        read()


def test_an_option_of_one_value_is_given_once(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    options = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx")]
    done = CliRunner().invoke(
        cli, ["compress", *options, "--max-drop", "0.001", "--max-drop", "0.5"]
    )
    assert done.exit_code == 2
    assert "--max-drop is given 2 times: keep one" in done.output
