"""The page on architecture search and the example say what the code does."""

import re
from pathlib import Path

import yaml

from mlflow_compress.config.nas import (
    NasConfig,
    SpecializeConfig,
    SupernetTraining,
    load_nas_config,
)
from mlflow_compress.nas import Space, Stage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/nas.md").read_text()


def test_the_page_describes_every_key():
    for model in (NasConfig, Space):
        for key in model.model_fields:
            assert re.search(rf"\b{key}\b", PAGE), key
    for model in (Stage, SupernetTraining, SpecializeConfig):
        for key in model.model_fields:
            assert f"`{key}`" in PAGE, key


def test_the_page_s_space_is_one():
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "space:" in b)
    assert NasConfig.model_validate(yaml.safe_load(block)).space.size > 1_000_000


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGE)
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)


def test_the_example_is_a_configuration():
    config = load_nas_config(ROOT / "examples/nas_edge/space.yaml")
    assert config.space.size == 4 * 819 * 819
    assert [spec["name"] for spec in config.targets] == ["gateway", "camera", "sensor"]
