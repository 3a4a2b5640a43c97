"""Tables described by fields: what is reported, where, and that nothing is reported twice."""

import jsonschema
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import (
    FLAG,
    SIZE,
    TEXT,
    Cursor,
    Field,
    choice,
    did_you_mean,
    integer,
    list_of,
    read_table,
    suggest,
    table,
    table_schema,
)
from devpolicy.errors import DevPolicyError, Diagnostic

INNER = (Field("flag", FLAG, "A flag.", required=True, example="write `flag = true`"),)
FIELDS = (
    Field("name", TEXT, "A name.", required=True, example='write `name = "x"`'),
    Field("size", SIZE, "A size."),
    Field("count", integer(1, 8), "A number."),
    Field("word", choice("one", "two"), "A word."),
    Field("words", list_of(choice("one", "two"), or_one=True, least=1), "Words."),
    Field("numbers", list_of(integer()), "Numbers."),
    Field("inner", table(INNER, what="`inner`", label="a key of `inner`"), "A table."),
)


def read(text: str) -> tuple[dict[str, object], list[Diagnostic]]:
    document = Document(text, "x.toml", DevPolicyError)
    findings: list[Diagnostic] = []
    result = read_table(document.data, Cursor(document, (), findings), FIELDS, what="the table", label="a key of it")
    return result, findings


def test_what_is_well_formed_is_read_in_the_order_of_the_fields():
    result, findings = read(
        'inner = {flag = false}\nnumbers = []\nwords = "one"\nword = "two"\ncount = 8\nsize = "1 KiB"\nname = ""\n'
    )
    assert not findings
    assert list(result.items()) == [
        ("name", ""),
        ("size", 1024),
        ("count", 8),
        ("word", "two"),
        ("words", ("one",)),
        ("numbers", ()),
        ("inner", {"flag": False}),
    ]


@pytest.mark.parametrize(
    ("line", "code", "column", "message", "help_"),
    [
        ("nmae = 1", "DP103", 1, "unknown key `nmae` in the table", "did you mean `name`?"),
        ("zzz = 1", "DP103", 1, "unknown key `zzz` in the table", "known are `name`"),
        ("size = true", "DP102", 8, "`size` takes a size, not a boolean", 'such as "24 GiB"'),
        ("size = 1.5", "DP102", 8, "`size` takes a size, not a float", 'such as "24 GiB"'),
        ('size = "24"', "DP104", 8, "`24` has no unit", ""),
        ("count = 9", "DP104", 9, "`9` is not between 1 and 8", ""),
        ("count = true", "DP102", 9, "`count` takes an integer, not a boolean", ""),
        ('word = "tow"', "DP104", 8, "`tow` is no value of `word`", "known are `one`, `two`"),
        ("word = 1", "DP102", 8, '`word` takes one of "one", "two", not an integer', ""),
        ('words = ["one", "tvo"]', "DP104", 17, "`tvo` is no value of `words`", ""),
        ("words = []", "DP104", 9, "this list is empty", ""),
        ("numbers = 1", "DP102", 11, "`numbers` takes an array, not an integer", ""),
        ("numbers = [1, 2, '3']", "DP102", 18, "`numbers` takes an integer, not a string", ""),
        ("inner = 1979-05-27", "DP102", 9, "`inner` takes a table, not a date or time", ""),
        ("inner = {}", "DP105", 9, "`flag` is missing in `inner`", "write `flag = true`"),
        ('inner = {flag = "true"}', "DP102", 17, "`flag` takes a boolean, not a string", "without quotes"),
    ],
)
def test_what_is_wrong_is_reported_and_the_rest_is_read(line, code, column, message, help_):
    result, findings = read(f'name = "x"\n{line}\n')
    (finding,) = findings
    assert finding.place is not None
    assert (finding.code, finding.place.line, finding.place.column) == (code, 2, column)
    assert message in finding.message
    assert help_ in finding.help
    assert result == {"name": "x"}


def test_a_missing_key_is_reported_at_its_table():
    _, (finding,) = read("count = 1\n")
    assert (finding.code, finding.help) == ("DP105", 'write `name = "x"`')


def test_a_misspelt_key_is_not_also_reported_as_missing():
    _, findings = read("nam = 1\n")
    assert [finding.code for finding in findings] == ["DP103"]


def test_one_bad_item_spoils_its_list():
    result, findings = read('name = "x"\nnumbers = [1, "2", 3, "4"]\n')
    assert len(findings) == 2
    assert "numbers" not in result


JSON_VALUES = st.recursive(
    st.booleans() | st.integers(-1, 10) | st.sampled_from(["one", "two", "1 KiB", "24", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["flag", "x"]), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([field.name for field in FIELDS] + ["x"]), JSON_VALUES, max_size=4))
def test_the_schema_accepts_what_is_read_and_refuses_the_rest(data):
    def written(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {written(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'

    text = "\n".join(f"{key} = {written(value)}" for key, value in data.items())
    _, findings = read(text)
    assert jsonschema.Draft7Validator(table_schema(FIELDS)).is_valid(tomli.loads(text)) == (not findings)


def test_suggestions():
    assert suggest("prefre", ["overflow", "prefer"]) == "prefer"
    assert suggest("tpu", ["xpu", "cpu"]) == ""
    assert did_you_mean("zzz", [str(number) for number in range(13)]).endswith("`11` and others")
    assert did_you_mean("zzz", ["a"]) == "known are `a`"
