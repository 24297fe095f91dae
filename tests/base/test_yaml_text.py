"""What YAML is refused, in which words; what is legitimate stays."""

import pytest

from mlflow_compress.base.yaml_text import MOST_BYTES, parse_yaml, read_yaml_file
from mlflow_compress.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "key 'a' stands there twice, in lines 1 and 3"),
        ("x:\n- {a: 1}\n- b: 1\n  c: 2\n  b: 3", "key 'b' stands there twice, in lines 3 and 5"),
        ("{a: 1, 'a': 2}", "key 'a' stands there twice, in one line"),
        ("1: a\n0x1: b", "key 1 stands there twice"),
        ("<<: {a: 1}\n<<: {a: 2}", "'<<' stands there twice"),
        ("[" * 3000, "line 1 has more than 50 levels"),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: 20000000000000000000", "a number beyond 64 bits: '20000000000000000000'"),
        (f"a: {'9' * 5000}", "no int: '999.*5,0.* characters"),
        ("a: 2020-13-45", "line 1 has no timestamp: '2020-13-45'"),
        ("a: !!float x", "no float: 'x'"),
        ("[a]: 1", "a mapping or a list as a key"),
        (r'a: "\ud800"', "characters that are no text"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: 1\n---\nb: 1", "single document"),
    ],
)
def test_it_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=f"^config c.yaml:? .*{message}") as caught:
        parse_yaml(text, "config c.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_aliases_stand_for_no_more_than_a_configuration_holds():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100,000 keys and values, aliases counted"):
        parse_yaml("\n".join(lines), "config")


def test_what_is_merged_may_be_overridden():
    text = "base: &b {x: 1, y: 2}\nmid: {deep: &m {<<: *b, x: 3}}\ntop: {<<: *m, y: 4}"
    found = parse_yaml(text, "config")
    assert (found["mid"], found["top"]) == ({"deep": {"x": 3, "y": 2}}, {"x": 3, "y": 4})


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "long.yaml"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES * 1000)
    with pytest.raises(ConfigError, match="longer than"):
        read_yaml_file(path, "config")
