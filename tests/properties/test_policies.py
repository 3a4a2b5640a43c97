"""Whatever is written, a policy is read or refused with a place; what the strategies make is read."""

import dataclasses

import jsonschema
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.codes import CODES
from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.schema import policy_schema
from devpolicy._core.strategies.policies import MODULES, patterns, policies, policy_texts
from devpolicy._core.toml.tables import fields_of
from devpolicy.errors import PolicyError

VALIDATOR = jsonschema.Draft7Validator(policy_schema())


def read_or_refused(text: str | bytes) -> Policy | None:
    """Read a policy, or check what its refusal says."""
    try:
        return Policy.parse(text, "p.toml")
    except PolicyError as refused:
        assert refused.diagnostics
        for finding in refused.diagnostics:
            assert finding.code in CODES
            assert finding.place is not None
            assert finding.place.line >= 1
            assert finding.place.column >= 1
            assert finding.place.length >= 1
            assert finding.render().startswith(f"{finding.severity}[{finding.code}]: ")
        return None


@given(st.text())
def test_any_text_is_read_or_refused(text):
    read_or_refused(text)


@given(st.binary())
def test_any_bytes_are_read_or_refused(content):
    read_or_refused(content)


WORDS = st.sampled_from(
    [
        *["prefer", "overflow", "avoid", "split", "ties", "offload", "rule", "memory", "workload", "schema"],
        *["match", "size", "cuda", "disk", "cpu", "gpu", "cap", "reserve", "when", "a.b", '"a.{0..3}"', '"**"'],
        *["devices", "require", "extends", "profile", "type", "when", "env", "big", '"big"', '"offload-lm-head"'],
        *[
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            ".",
            "\n",
            " ",
            "#",
            '"',
            "'",
            '"""',
            "\\",
            "\r\n",
            "\0",
            "\u2028",
            "é",
        ],
        *["true", "1", "-0x1", "0xffffffffffffffffffff", "1.5", "nan", "1979-05-27", '">=1 GiB"', '"90%"', '"cuda:1"'],
    ]
)


@given(st.lists(WORDS, max_size=40))
def test_any_sequence_of_tokens_is_read_or_refused(words):
    read_or_refused("".join(words))


@given(st.data())
def test_a_policy_with_any_piece_changed_is_read_or_refused(data):
    text = data.draw(policy_texts(hostile=True))
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        piece = data.draw(st.sampled_from(["", text[start:end] * 2]) | WORDS | st.text(max_size=3))
        text = text[:start] + piece + text[end:]
    read_or_refused(text)


@given(st.recursive(st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)))
def test_any_shape_of_values_is_read_or_refused(shape):
    def written(value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        if isinstance(value, dict):
            keys = [f"'{key}'" if key.isprintable() and "'" not in key else "k" for key in value]
            return (
                f"{{{', '.join(f'{key} = {written(item)}' for key, item in zip(keys, value.values(), strict=True))}}}"
            )
        return "0"

    for key in [field.name for field in fields_of(TopTable)]:
        read_or_refused(f"{key} = {written(shape)}")


@given(policy_texts())
def test_what_the_strategy_writes_is_read(text):
    policy = Policy.parse(text)
    assert policy.prefer
    assert Policy.parse(text.encode()) == policy
    assert Policy.parse(text.replace("\n", "\r\n")) == policy


@given(policy_texts(hostile=True))
def test_what_the_hostile_strategy_writes_is_well_formed(text):
    assert Policy.parse(text).prefer


@given(policy_texts(hostile=True))
def test_what_is_read_is_valid_by_the_schema(text):
    VALIDATOR.validate(tomli.loads(text))


@given(policies())
def test_a_policy_is_a_value(policy):
    assert hash(policy) == hash(dataclasses.replace(policy))
    assert all(rule.place is not None for rule in policy.rules)
    names = [rule.name for rule in policy.rules]
    assert len(set(names)) == len(names)


@given(policies(hostile=True))
def test_warnings_are_no_errors(policy):
    assert {finding.severity for finding in policy.warnings} <= {"warning"}


@given(patterns(modules=["a.0.b", "a.1.b", "x"]))
def test_patterns_are_made_from_the_given_paths(pattern):
    assert isinstance(pattern, Pattern)


@given(patterns(modules=["odd.na{me.*"]))
def test_patterns_are_well_formed_whatever_modules_are_called(pattern):
    assert Pattern.parse(pattern.text) == pattern


@pytest.mark.parametrize("arguments", [{"types": []}, {"types": ["cpu"]}, {"types": ["gpu"]}])
def test_the_strategies_refuse_types_that_are_no_accelerators(arguments):
    with pytest.raises(InvalidArgument):
        policies(**arguments)


@pytest.mark.parametrize("modules", [[], [""]])
def test_patterns_need_a_path(modules):
    with pytest.raises(InvalidArgument):
        patterns(modules=modules)


def test_the_default_modules_have_no_root():
    assert all(MODULES)
