"""The examples for schedulers are whole, and their commands exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from mlflow.cli import cli as mlflow_cli

from mlflow_compress.cli.main import EXIT_CODES, cli
from mlflow_compress.cli.webhook import webhook
from mlflow_compress.mlflow_plugin.webhook.receiver import Settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/retraining"


def parses(words):
    """Check that the command line understands a command; nothing is run."""
    assert words[0] == "mlflow-compress"
    whole = click.Context(cli, **cli.context_settings)  # click keeps what a context says of help
    command = cli.get_command(whole, words[1])
    assert command is not None, words
    name, rest = words[1], list(words[2:])
    if isinstance(command, click.Group):
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    command.make_context(name, rest, parent=whole)


def test_the_airflow_dag():
    text = (EXAMPLES / "airflow_dag.py").read_text()
    compile(text, "airflow_dag.py", "exec")
    (command,) = re.findall(r'bash_command="(.+)"', text)
    parses(shlex.split(command))
    (skipped,) = re.findall(r"skip_on_exit_code=(\d+)", text)
    assert "another retrain job" in EXIT_CODES[int(skipped)]


def test_the_github_workflow():
    flow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    steps = flow["jobs"]["retrain"]["steps"]
    (command,) = [s["run"] for s in steps if s.get("run", "").startswith("mlflow-compress")]
    parses(shlex.split(command.partition("|")[0]))


def test_the_kubernetes_cronjob():
    job = yaml.safe_load((EXAMPLES / "kubernetes-cronjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    spec = job["spec"]["jobTemplate"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    parses(container["command"] + container["args"])
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert set(rule["onExitCodes"]["values"]) <= set(EXIT_CODES)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_the_systemd_unit():
    text = (EXAMPLES / "mlflow-compress-webhook.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    first, *words = shlex.split(command)
    parses([Path(first).name, *words])
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop) > Settings.grace
    sections = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert sections == ["Unit", "Service", "Install"]


def test_docker_compose():
    text = (EXAMPLES / "compose.yaml").read_text()
    composed = yaml.safe_load(text)
    server, receiver = composed["services"]["mlflow"], composed["services"]["receiver"]
    parses(shlex.split(receiver["command"]))
    typed = re.findall(r"docker compose exec receiver (mlflow-compress .+)", text)
    assert len(typed) == 2
    for command in typed:
        parses(shlex.split(command))
    assert all(name.startswith("MLFLOW_WEBHOOK_") for name in server["environment"])
    words = shlex.split(server["command"])
    assert words[:2] == ["mlflow", "server"]
    mlflow_cli.commands["server"].make_context("server", words[2:])
    volumes = [each.split(":")[0] for each in server["volumes"] + receiver["volumes"]]
    assert {name for name in volumes if name[0] != "."} == set(composed["volumes"])
    assert receiver["secrets"] == list(composed["secrets"])


@pytest.mark.parametrize("page", ["retraining.md", "webhooks.md"])
def test_links_of_the_docs_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "docs" / page).read_text())
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


def test_the_docs_list_every_exit_code():
    page = (ROOT / "docs/retraining.md").read_text()
    assert all(f"\n| {code} | " in page for code in EXIT_CODES)


def test_commands_of_the_webhook_docs_exist():
    page = (ROOT / "docs/webhooks.md").read_text()
    typed = re.findall(r"^    (mlflow-compress webhook .+)$", page, re.MULTILINE)
    assert len(typed) == 3
    for command in typed:
        parses(shlex.split(command))
    declared = {
        option for one in webhook.commands.values() for each in one.params
        if isinstance(each, click.Option) for option in (*each.opts, *each.secondary_opts)
    }  # fmt: skip
    assert set(re.findall(r"--[a-z][a-z-]+", page)) - {"--json"} == declared


def test_the_mlflow_project_runs(project, tmp_path):
    declared = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["compress"]
    config = tmp_path / "compress.yaml"
    config.write_text(yaml.safe_dump(project.config))
    parses(shlex.split(declared["command"].format(config=config)))
    binaries = tmp_path / "bin"
    binaries.mkdir()
    script = binaries / "mlflow-compress"
    script.write_text(f"#!{sys.executable}\nfrom mlflow_compress.cli.main import main\nmain()\n")
    script.chmod(0o755)
    path = os.pathsep.join([str(binaries), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "compress",
         "-P", f"config={config}", "--env-manager", "local"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": project.config["tracking_uri"],
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version = project.client.get_model_version_by_alias("tiny-edge", "device").version
    assert int(version) == 1
