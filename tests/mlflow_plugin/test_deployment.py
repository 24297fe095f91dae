import ast
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client, run_local
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from mlflow_compress import packed
from mlflow_compress.mlflow_plugin import deployment, flavor
from mlflow_compress.targets import shelf
from tests.targets.conftest import project_on_the_path, ssh_host, write_script  # noqa: F401


@pytest.fixture
def saved(tmp_path, packed_file):
    """Return a function that saves a model of a profile, and returns its folder and its file."""

    def save(name="one", profile="portable", **kwargs):
        path = packed_file(profile, name=f"{name}.onnx", **kwargs)
        flavor.save_model(path, tmp_path / name)
        return str(tmp_path / name), path.read_bytes()

    return save


@pytest.fixture
def edge(tmp_path):
    return get_deploy_client(f"edge:{tmp_path}/device")


def on_device(tmp_path, name="lenet"):
    return (tmp_path / "device" / name / "current" / "model.onnx").read_bytes()


def inside(folder):
    return sorted(path.name for path in folder.iterdir())


def run(*arguments):
    done = CliRunner().invoke(commands, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_the_commands_from_create_to_delete(store_uri, tmp_path, packed_file, images):
    mlflow.set_tracking_uri(store_uri)
    client = mlflow.MlflowClient()
    paths = [packed_file("portable"), packed_file("compact")]
    for path in paths:
        with mlflow.start_run():
            flavor.log_model(path, "edge", registered_model_name="lenet-edge")
    client.set_registered_model_alias("lenet-edge", "raspberry-pi-4", 1)
    at = ["-t", f"edge:{tmp_path}/device"]
    model = ["--name", "lenet", "-m", "models:/lenet-edge@raspberry-pi-4"]

    done = run("create", *at, *model)
    assert "mlflow_compress deployment lenet is created" in done.output
    assert on_device(tmp_path) == paths[0].read_bytes()
    again = run("create", *at, *model)
    assert again.exit_code == 1
    assert again.output.startswith("Error: this machine: deployment 'lenet' is already in")

    client.set_registered_model_alias("lenet-edge", "raspberry-pi-4", 2)
    assert "is updated (with flavor mlflow_compress)" in run("update", *at, *model).output
    assert on_device(tmp_path) == paths[1].read_bytes()
    shown = run("get", *at, "--name", "lenet").output
    for line in ("version: 2", "intact: True", "checked: True", "model_uri: models:/lenet-edge/2"):
        assert line in shown.splitlines()
    assert "previous: 1-" in shown
    assert "'name': 'lenet'" in run("list", *at).output

    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"image": images.tolist()}))
    run("predict", *at, "--name", "lenet", "-I", rows, "-O", tmp_path / "out.json")
    found = pd.read_json(tmp_path / "out.json")
    want = packed.load(paths[1]).run(None, {"image": images})[0]
    np.testing.assert_allclose(np.array(found["logits"].tolist()), want, rtol=1e-5)

    assert "is updated" in run("update", *at, "--name", "lenet", "-C", "rollback=true").output
    assert on_device(tmp_path) == paths[0].read_bytes()
    assert "lenet is deleted" in run("delete", *at, "--name", "lenet").output
    assert inside(tmp_path / "device") == [".lock"]
    gone = run("get", *at, "--name", "lenet")
    assert (gone.exit_code, "there is no deployment 'lenet'" in gone.output) == (1, True)


def test_a_host_over_ssh(ssh_host, tmp_path, saved, images):  # noqa: F811
    address, _, query = ssh_host.url.partition("?")
    edge = get_deploy_client(f"edge:{address}{tmp_path}/device?{query}")
    (one, old), (two, new) = saved("one"), saved("two", "compact")
    edge.create_deployment("lenet", one)
    edge.update_deployment("lenet", two)
    assert on_device(tmp_path) == new
    want = packed.load(new).run(None, {"image": images})[0]
    np.testing.assert_array_equal(edge.predict("lenet", images), want)
    edge.update_deployment("lenet", config={"rollback": True})
    assert on_device(tmp_path) == old
    assert [one["name"] for one in edge.list_deployments()] == ["lenet"]
    ssh_host.known_hosts.write_text("")
    with pytest.raises(MlflowException, match="Host key verification failed") as caught:
        edge.delete_deployment("lenet")
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
    assert on_device(tmp_path) == old


CUT = "head -c 600 | sh -c"
OTHER_BYTES = "tr '\\001' '\\002' | sh -c"  # no other byte of the stream is 1: the archive is whole


@pytest.mark.parametrize(
    ("way", "said"), [(CUT, "unexpected end of data"), (OTHER_BYTES, "arrived with sha256")]
)
def test_a_transfer_that_fails_changes_nothing(tmp_path, monkeypatch, saved, way, said):
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    # A stand-in for ssh, whose network harms what goes through it.
    run_last = '#!/bin/sh\nfor last; do :; done\n{} "$last"\n'
    write_script(bin_dir / "ssh", run_last.format("exec sh -c"))
    edge = get_deploy_client(f"edge:ssh://device{tmp_path}/device?python={sys.executable}")
    (one, old), (two, _) = saved("one"), saved("two", "compact")
    edge.create_deployment("lenet", one)
    before = edge.get_deployment("lenet")
    write_script(bin_dir / "ssh", run_last.format(way))
    with pytest.raises(MlflowException, match=said) as caught:
        edge.update_deployment("lenet", two)
    assert "\n" not in str(caught.value)
    write_script(bin_dir / "ssh", run_last.format("exec sh -c"))
    assert on_device(tmp_path) == old
    assert edge.get_deployment("lenet") == before
    assert inside(tmp_path / "device" / "lenet") == [before["folder"], "current"]


@pytest.mark.parametrize(
    "answer", ["{}", '{"deployments": 5}', '{"intact": true, "name": "lenet", "folder": "1"}']
)
def test_an_odd_answer_is_nothing_done(tmp_path, monkeypatch, saved, answer):
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    write_script(bin_dir / "ssh", f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")
    edge, one = get_deploy_client("edge:ssh://device/srv"), saved("one")[0]
    calls = {
        "create": lambda: edge.create_deployment("lenet", one),
        "update": lambda: edge.update_deployment("lenet", one),
        "delete": lambda: edge.delete_deployment("lenet"),
        "list": edge.list_deployments,
        "predict": lambda: edge.predict("lenet", [[0.0]]),
        "get": lambda: edge.get_deployment("other"),
    }
    for call in calls.values():
        with pytest.raises(MlflowException, match="is no answer to what was asked") as caught:
            call()
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (5, False)


def test_arrays_of_a_prediction_are_arrays(tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    buffer = io.BytesIO()
    np.savez(buffer, np.array([Harm()], dtype=object))
    for npz in (base64.b64encode(buffer.getvalue()).decode(), "AAAA", "no base64"):
        answer = {"names": ["y"], "npz": npz}
        monkeypatch.setattr(deployment.transport, "ask", lambda *_, a=answer, **__: a)
        with pytest.raises(MlflowException, match="is no answer to what was asked"):
            get_deploy_client(f"edge:{tmp_path}").predict("lenet", [[0.0]])
    assert not (tmp_path / "ran").exists()


def test_a_switch_that_fails_changes_nothing(tmp_path, edge, saved):
    (one, old), (two, _) = saved("one"), saved("two", "compact")
    edge.create_deployment("lenet", one)
    (tmp_path / "device" / "lenet" / ".current.new").mkdir()
    with pytest.raises(MlflowException, match=r"\.current\.new"):
        edge.update_deployment("lenet", two)
    assert on_device(tmp_path) == old
    assert edge.get_deployment("lenet")["intact"]


def test_a_model_that_the_device_cannot_open_is_not_switched_to(tmp_path, edge, saved, onnx_model):
    import onnx

    one, old = saved("one")
    edge.create_deployment("lenet", one)
    two, _ = saved("two")
    onnx_model.graph.node[0].op_type = "NoSuchOperator"
    broken = tmp_path / "two" / "data" / "model.onnx"
    was = hashlib.sha256(broken.read_bytes()).hexdigest()
    onnx.save(onnx_model, broken)
    mlmodel = tmp_path / "two" / "MLmodel"
    is_now = hashlib.sha256(broken.read_bytes()).hexdigest()
    mlmodel.write_text(mlmodel.read_text().replace(was, is_now))
    with pytest.raises(MlflowException, match=r"cannot open the model: .*NoSuchOperator"):
        edge.update_deployment("lenet", two)
    assert on_device(tmp_path) == old
    edge.update_deployment("lenet", two, config={"check": "false"})
    assert on_device(tmp_path) == broken.read_bytes()


def test_a_damaged_download_is_not_sent(tmp_path, edge, saved):
    one, _ = saved("one")
    with (tmp_path / "one" / "data" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(MlflowException, match="its MLmodel file says"):
        edge.create_deployment("lenet", one)
    assert edge.list_deployments() == []


def test_a_damaged_deployment_says_so_and_is_mended_by_an_update(tmp_path, edge, saved, images):
    one, content = saved("one")
    edge.create_deployment("lenet", one)
    path = tmp_path / "device" / "lenet" / "current" / "model.onnx"
    path.write_bytes(content[:-1])
    assert edge.get_deployment("lenet")["intact"] is False
    with pytest.raises(MlflowException, match="is damaged: update the deployment"):
        edge.predict("lenet", images)
    edge.update_deployment("lenet", one)
    assert edge.get_deployment("lenet")["intact"] is True


def test_predict_takes_arrays_dicts_and_tables(edge, saved, images):
    one, content = saved("one", outputs=("logits", "classes"))
    edge.create_deployment("lenet", one)
    logits, classes = packed.load(content).run(None, {"image": images})
    for given in (images, images.tolist(), {"image": images}, {"image": images.astype(float)}):
        found = edge.predict("lenet", given)
        np.testing.assert_array_equal(found["classes"], classes)
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-5)
    # The features of the only input as columns.
    table = edge.predict("lenet", pd.DataFrame(images))
    assert list(table.columns) == ["logits", "classes"]
    assert table["classes"].tolist() == classes.tolist()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"picture": [[0.0]]}, "the model's inputs are image; got picture"),
        (["a"], r"input 'image' takes tensor\(float\), got <U1"),
        ([[1.0], [1.0, 2.0]], "numbers or texts of one shape"),
        ([[1.0, 2.0]], "the device cannot run the model"),
    ],
)
def test_inputs_that_do_not_fit(edge, saved, inputs, said):
    edge.create_deployment("lenet", saved("one")[0])
    with pytest.raises(MlflowException, match=said) as caught:
        edge.predict("lenet", inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("edge", "must be edge:/folder or edge:ssh://user@host/folder"),
        ("edge://pi/models", "must be edge:/folder"),
        ("edge:ssh://pi@box", "name the folder"),
        ("edge:ssh://[x/models", "Invalid IPv6 URL"),
        ("edge:ssh://box:port/models", "Port could not be cast"),
        ("edge:ssh://-oProxyCommand=x/models", "target 'ssh://-oProxyCommand=x'"),
    ],
)
def test_target_uris_that_lead_nowhere(uri, said):
    with pytest.raises(MlflowException, match=said):
        get_deploy_client(uri)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda e, m: e.create_deployment("../x", m), "deployment name '../x'"),
        (lambda e, m: e.create_deployment("x", m, "onnx"), "flavor 'onnx' cannot be"),
        (lambda e, m: e.create_deployment("x", m, config={"kep": 1}), "config 'kep' is unknown"),
        (lambda e, m: e.create_deployment("x", m, config={"keep": "1"}), "at least 2"),
        (lambda e, m: e.create_deployment("x", m, config={"check": "yes"}), "true or false"),
        (lambda e, m: e.create_deployment("x", f"{m}/none"), "none"),
        (lambda e, m: e.update_deployment("x", m), "there is no deployment 'x'"),
        (lambda e, m: e.update_deployment("x"), "one of them"),
        (lambda e, m: e.update_deployment("x", m, config={"rollback": True}), "one of them"),
        (lambda e, m: e.delete_deployment("x"), "there is no deployment 'x'"),
        (lambda e, m: e.predict("x", [1.0]), "there is no deployment 'x'"),
    ],
)
def test_what_is_refused(tmp_path, edge, saved, call, said):
    with pytest.raises(MlflowException, match=said) as caught:
        call(edge, saved("one")[0])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "device" / "x").exists()


@pytest.mark.parametrize(
    ("target", "options", "code"),
    [
        ("edge:{}/device", ["-C", "keep=none"], 2),
        ("edge:ssh://box", [], 2),
        ("edge:{}/device", ["-m", "{}/nothing"], 4),
        ("edge:ssh://no-such-host.invalid/srv", [], 5),
    ],
)
def test_the_command_line_ends_with_one_line_and_a_code(tmp_path, saved, target, options, code):
    options = [one.format(tmp_path) for one in ["-m", saved("one")[0], *options]]
    done = run("create", "-t", target.format(tmp_path), "--name", "lenet", *options)
    assert done.exit_code == code, done.output
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1


def test_help_and_run_local(tmp_path, saved):
    assert "edge:ssh://user@host" in run("help", "-t", "edge").output
    one, content = saved("one")
    run_local("edge", "lenet", one, config={"root": str(tmp_path / "device")})
    assert on_device(tmp_path) == content


def test_the_docs_show_what_works(store_uri, tmp_path, packed_file, images):
    mlflow.set_tracking_uri(store_uri)
    for profile in ("portable", "compact"):
        with mlflow.start_run():
            flavor.log_model(packed_file(profile), "edge", registered_model_name="lenet-edge")
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("lenet-edge", "raspberry-pi-4", 1)
    Path("rows.json").write_text(json.dumps(images.tolist()))
    page = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
    lines = page.partition("```bash\n")[2].partition("```")[0].splitlines()
    assert {line.split()[2] for line in lines} >= {"create", "update", "predict", "delete"}
    for line in lines:
        words = line.replace("/srv/models", f"{tmp_path}/device").split()
        assert words[:2] == ["mlflow", "deployments"]
        done = run(*words[2:])
        assert done.exit_code == 0, (line, done.output)
    for option in fields(deployment._Options):
        assert f"| `{option.name}` | `{str(option.default).lower().removesuffix('.0')}` |" in page
        assert f"{option.name}=" in deployment.HELP


def test_looking_at_a_device_loads_no_runtime():
    program = "import sys, mlflow_compress.mlflow_plugin.deployment\n"
    program += "sys.exit('onnxruntime' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_script_stands_alone():
    text = Path(shelf.__file__).read_text()
    ast.parse(text, feature_version=(3, 8))
    imports = [line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))]
    roots = {name.partition(".")[0] for name in imports}
    assert roots <= {*sys.stdlib_module_names, "__future__"}
