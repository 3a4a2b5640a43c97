"""The state of `use_policy`: blocks in any order, twice, in other threads; and that a plan comes back as it was."""

import json
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import ComponentDevice, DevPolicyError, Plan, Policy, plan, use_policy

HOSTS = {"1x24gb": "cuda:0", "macbook-m3-36gb": "mps", "cpu-only": "cpu"}


def active():
    return ComponentDevice.resolve_device(None).to_torch_str()


def test_blocks_left_in_another_order_leave_nothing_active():
    before = active()
    first, second = (use_policy("prefer-accelerator", host) for host in ("1x24gb", "macbook-m3-36gb"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert active() == "mps"
    second.__exit__(None, None, None)
    assert active() == before


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_the_innermost_block_that_was_not_left_counts(data):
    before = active()
    names = data.draw(st.lists(st.sampled_from(list(HOSTS)), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(names))))
    blocks = [use_policy("prefer-accelerator", name) for name in names]
    for block in blocks:
        block.__enter__()
    left = dict(enumerate(names))
    for index in order:
        blocks[index].__exit__(None, None, None)
        del left[index]
        assert active() == (HOSTS[left[max(left)]] if left else before)


def test_a_block_that_is_entered_twice_says_so():
    block = use_policy("cpu-only", "1x24gb")
    with block, pytest.raises(DevPolicyError, match="was entered before"), block:
        pass
    with pytest.raises(DevPolicyError, match="was entered before"), block:
        pass


def test_a_block_that_is_left_twice_or_never_entered_says_so():
    block = use_policy("cpu-only", "1x24gb")
    with pytest.raises(DevPolicyError, match="is left once"):
        block.__exit__(None, None, None)
    block.__enter__()
    block.__exit__(None, None, None)
    with pytest.raises(DevPolicyError, match="is left once"):
        block.__exit__(None, None, None)


def test_a_block_is_left_where_it_was_entered():
    block, said = use_policy("cpu-only", "1x24gb"), []

    def leave():
        try:
            block.__exit__(None, None, None)
        except DevPolicyError as error:
            said.append(str(error))

    with block:
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        assert active() == "cpu"
    assert "thread or task" in said[0]


def test_a_decorated_function_uses_a_block_of_its_own_each_time():
    @use_policy("prefer-accelerator", "1x24gb")
    def ask(depth):
        return [active(), *(ask(depth - 1) if depth else [])]

    assert ask(2) == ask(0) * 3 == ["cuda:0"] * 3


def test_a_block_whose_policy_cannot_be_read_is_not_entered():
    before = active()
    with pytest.raises(DevPolicyError), ExitStack() as stack:
        stack.enter_context(use_policy("no-such-policy"))
    assert active() == before


def test_a_plan_with_warnings_comes_back_as_it_was():
    policy = Policy.parse('prefer = "cuda"\n[offload]\nnothing_here = "cpu"\n', "p.toml")
    made = plan(policy, "llama-3.2-1b", "1x24gb")
    again = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert made.warnings
    assert again == made
    assert [str(one.place) for one in again.warnings] == [str(one.place) for one in made.warnings]


def test_a_plan_that_an_earlier_version_wrote_is_read():
    policy = Policy.parse('prefer = "cuda"\n[offload]\nnothing_here = "cpu"\n')
    value = plan(policy, "llama-3.2-1b", "1x24gb").to_dict()
    value["warnings"] = [{key: one[key] for key in ("code", "message", "help")} for one in value["warnings"]]
    assert Plan.from_dict(value).warnings[0].code == "DP501"
