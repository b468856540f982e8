from __future__ import annotations

from pathlib import Path

import pytest

from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.yaml_source import MAX_BYTES, Source, dotted, read_source


def test_every_value_knows_its_line() -> None:
    source = read_source("name: a\nsteps:\n  - name: b\n    retry:\n      limit: 3\n  - {name: c}\n")
    lines = {dotted(path): place.line for path, place in source.places.items()}
    assert lines == {
        "": 1,
        "name": 1,
        "steps": 2,
        "steps[0]": 3,
        "steps[0].name": 3,
        "steps[0].retry": 4,
        "steps[0].retry.limit": 5,
        "steps[1]": 6,
        "steps[1].name": 6,
    }


def test_a_value_that_is_not_there_has_the_line_of_what_encloses_it() -> None:
    source = read_source("name: a\nsteps:\n  - name: b\n")
    place = source.place(("steps", 0, "handler", "callable"))
    assert place is not None
    assert place.line == 3
    assert dotted(place.written) == "steps[0].handler.callable"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-0", 0),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("1.0.0", "1.0.0"),
        ("12:30", "12:30"),
        ("2026-01-11T00:00:00Z", "2026-01-11T00:00:00Z"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("[1, [2]]", [1, [2]]),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_words_become_the_json_values_of_yaml_1_2(text: str, value: object) -> None:
    found = read_source(f"v: {text}").value["v"]
    assert found == value
    assert type(found) is type(value)


def test_aliases_repeat_what_they_name() -> None:
    source = read_source("base: &base {limit: 3, backoff: fixed}\nretry: *base\n")
    assert source.value["retry"] == {"limit": 3, "backoff": "fixed"}


def test_a_merge_key_brings_in_fields_and_the_mappings_own_rule() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n"
    assert read_source(text).value["c"] == {"x": 3, "y": 1, "z": 2}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert read_source('"<<": 1').value == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *b", "the alias *b names no anchor before it"),
        ("a: {<<: 1}", "<< takes a mapping, or a list of mappings"),
        ("a: 99999999999999999999", "has more than 64 bits"),
        ("a: !custom {}", "the tag !custom is not allowed"),
        ("a: !!set {b}", "the tag tag:yaml.org,2002:set is not allowed"),
        ("? [1]\n: 2", "a mapping's keys must be plain strings"),
        ("%YAML 1.1\n---\na: yes", "templates are YAML 1.2"),
        ("a: \x07", "is not valid YAML"),
        ("a: 'open", "is not valid YAML"),
        ("\ta: 1", "is not valid YAML"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        read_source(text)
    assert message in str(caught.value)


def test_a_file_that_is_too_long_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("a: 1\n" * (MAX_BYTES // 5 + 1))
    with pytest.raises(InvalidTemplate, match="is longer than 2,097,152 bytes"):
        read_source(file)


def test_many_open_brackets_end_at_the_depth_limit_not_in_a_recursion_error() -> None:
    with pytest.raises(InvalidTemplate, match="nested deeper than 32 levels"):
        read_source("[" * 100_000)


def test_depth_counts_what_aliases_repeat() -> None:
    deep = "[" * 20 + "1" + "]" * 20
    with pytest.raises(InvalidTemplate, match="nested deeper"):
        read_source(f"a: &a {deep}\nb: {'[' * 15}*a{']' * 15}")


def test_a_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: a\ndescription: caf\xe9\n")
    with pytest.raises(InvalidTemplate) as caught:
        read_source(file)
    assert str(caught.value) == f"{file}:2: is not UTF-8 text: save it as UTF-8"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert read_source(file).value == {"name": "a"}


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(InvalidTemplate, match="cannot be read: No such file"):
        read_source(tmp_path / "nowhere.yaml")


def test_a_problem_names_step_and_environment() -> None:
    source = read_source("environments:\n  test:\n    steps:\n      - name: ship\n        retry: {limit: 1}\n")
    path = ("environments", "test", "steps", 0, "retry", "limit")
    assert str(source.problem("is wrong", path)) == (
        "template:5: environment 'test': step 'ship': retry.limit: is wrong"
    )


def test_a_step_without_a_name_is_called_by_its_number() -> None:
    assert str(Source({"steps": [{}]}).problem("is wrong", ("steps", 0, "name"))) == (
        "template: step '#1': name: is wrong"
    )
