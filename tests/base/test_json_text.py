"""What decides something is read as it was meant, or not at all."""

import json

import pytest

from mlflow_compress.base.json_text import parse_json


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": 1, "a": 1}', '[{"b": {"a": 1, "\\u0061": 2}}]', b'{"a":1,"a":2}'],
)
def test_a_key_twice_is_a_mistake(text):
    with pytest.raises(ValueError, match="the key 'a' stands there twice"):
        parse_json(text)


def test_lists_without_end_are_a_mistake():
    with pytest.raises(ValueError, match="without end"):
        parse_json("[" * 100_000)


def test_everything_else_is_what_json_says():
    value = {"a": [1, {"a": None}], "b": "\u00e9", "": 1.5}
    assert parse_json(json.dumps(value)) == value
