"""The documentation and the command line say the same."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlflow_compress.cli.main import EXIT_CODES, cli
from mlflow_compress.config.compress import Config, DataConfig, DataRef, SearchConfig

ROOT = Path(__file__).parents[2]
COMMANDS = cli.list_commands(click.Context(cli))


def commands():
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", one) for sub, one in command.commands.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_docs(name):
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.split()) > 10
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert any(f"mlflow-compress {name}" in page.read_text() for page in pages)


def test_every_option_has_help():
    for name, command in commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_the_top_help_lists_every_command_and_exit_code():
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in COMMANDS)
    assert all(re.search(rf"^ *{code} ", shown, re.MULTILINE) for code in EXIT_CODES)


def test_the_readme_lists_every_exit_code():
    readme = (ROOT / "README.md").read_text()
    for code, text in EXIT_CODES.items():
        assert f"\n| {code} | {text}" in readme


def test_config_md_describes_every_key():
    page = (ROOT / "docs/config.md").read_text()
    for model in (Config, DataConfig, SearchConfig):
        for key in model.model_fields:
            assert f"`{key}`" in page, key
    assert all(f"{key}:" in page for key in DataRef.model_fields)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/config.md", "docs/promotion.md", "docs/deployment.md"]
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text())
    assert links
    for link in links:
        assert (path.parent / link).exists(), link


def test_the_readme_s_yaml_is_a_config():
    import yaml

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        Config.model_validate(yaml.safe_load(block))


def test_techniques_md_describes_every_setting():
    import dataclasses

    from mlflow_compress import techniques
    from mlflow_compress.techniques.data import Training

    page = (ROOT / "docs/techniques.md").read_text()
    shared = {field.name for field in dataclasses.fields(Training)}
    training = page.split("\n## Training\n")[1].split("\n## ")[0]
    assert all(f"| `{name}` |" in training for name in shared)
    for name in techniques.names():
        assert f"\n## {name}\n" in page
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for field in dataclasses.fields(techniques.get(name).settings):
            told = field.name in shared or f"| `{field.name}` |" in section
            assert told, f"{name}.{field.name}"


def test_promotion_md_describes_every_key():
    from mlflow_compress.targets import schema

    page = (ROOT / "docs/promotion.md").read_text()
    sections = {"limits": schema.LimitsSchema, "accuracy": schema.AccuracySchema}
    for key in schema.TargetSchema.model_fields:
        for name in sections[key].model_fields if key in sections else [""]:
            assert (f"{key}.{name}" if name else key) in page
