"""The help of a refusal: every change that it suggests works, and a smaller one of its kind does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import machine, make_plan, small_llama

from devpolicy import Accelerator, Host, ModelTree, Policy, ResolvedPolicy, Unsatisfiable
from devpolicy._core.language.policy import DeviceSelector
from devpolicy._core.model.tree import KVCache, Module, Tensor
from devpolicy._core.sizes import parse_size

MIB, GIB = 1 << 20, 1 << 30


def _model(*, blocks: int = 8, mib: int = 512, kv: int = 0, head: int = 300) -> ModelTree:
    modules = [Module("", "M"), Module("embed", "Embedding", (Tensor("w", (head * MIB,), "int8"),))]
    modules += [Module("layers", "ModuleList")]
    modules += [Module(f"layers.{at}", "Block", (Tensor("w", (mib * MIB,), "int8"),)) for at in range(blocks)]
    caches = tuple(KVCache(f"layers.{at}", kv) for at in range(blocks)) if kv else ()
    return ModelTree("m", tuple(modules), no_split=frozenset({"Block"}), kv_cache=caches, context=8192, dtype="float16")


def _help(policy: ResolvedPolicy, tree: ModelTree, host: Host, target: str | None = None) -> list[str]:
    with pytest.raises(Unsatisfiable) as caught:
        make_plan(policy, tree, host, target=target)
    help_ = caught.value.diagnostics[0].help
    return [line.removeprefix("or ") for line in help_.splitlines()] if help_ else []


def _works(policy: ResolvedPolicy, tree: ModelTree, host: Host, target: str | None = None) -> bool:
    try:
        make_plan(policy, tree, host, advise=False, target=target)
    except Unsatisfiable:
        return False
    return True


def _apply(line: str, policy: ResolvedPolicy, host: Host) -> tuple[ResolvedPolicy, Host, ResolvedPolicy, Host]:
    """What a line asks for, and a little less than that."""
    if found := re.fullmatch(r"(.+) more on `(\w+):(\d+)` would do", line):
        size, kind, number = parse_size(found[1]), found[2], int(found[3])
        return policy, _grown(host, kind, number, size), policy, _grown(host, kind, number, size - 256 * MIB)
    if found := re.fullmatch(r"(.+) more on each of (.+) would do", line):
        size, names = parse_size(found[1]), re.findall(r"`(\w+):(\d+)`", found[2])
        more = less = host
        for kind, number in names:
            more = _grown(more, kind, int(number), size)
            less = _grown(less, kind, int(number), size - 256 * MIB)
        return policy, more, policy, less
    if found := re.fullmatch(r"(\d+) more devices? like `(\w+):(\d+)`", line):
        like = next(one for one in host.devices(found[2]) if one.id == int(found[3]))
        counts = int(found[1]), int(found[1]) - 1
        more, less = (Host([*host.accelerators, *_copies(host, like, n)], memory=host.memory) for n in counts)
        return policy, more, policy, less
    if found := re.match(r"`overflow = (.+)`, which keeps", line):
        places = tuple(DeviceSelector(place) for place in re.findall(r'"(\w+)"', found[1]))
        return replace(policy, overflow=places), host, policy, host
    if found := re.fullmatch(r"`\[workload\]` with `context = (\d+)`", line):
        shorter, longer = (replace(policy.workload, context=int(found[1]) + extra) for extra in (0, 128))
        return replace(policy, workload=shorter), host, replace(policy, workload=longer), host
    assert line.startswith('`"cpu"` at the end of `prefer`'), line
    overflow = (DeviceSelector("disk"),) if "overflow" in line else policy.overflow
    return replace(policy, prefer=(*policy.prefer, DeviceSelector("cpu")), overflow=overflow), host, policy, host


def _copies(host: Host, like: Accelerator, count: int) -> list[Accelerator]:
    first = max(one.id or 0 for one in host.devices(like.type)) + 1
    return [like.at(first + at) for at in range(count)]


def _grown(host: Host, kind: str, number: int, more: int) -> Host:
    def grown(one: Accelerator) -> Accelerator:
        if (one.type, one.id) != (kind, number):
            return one
        return replace(one, memory=one.memory + more, free=one.free + more)

    pool = more if any(one.unified for one in host.devices(kind)) else 0
    accelerators = tuple(grown(one) for one in host.accelerators)
    return replace(host, accelerators=accelerators, memory=host.memory + pool, free=host.free + pool)


def _check(policy: ResolvedPolicy, tree: ModelTree, host: Host) -> list[str]:
    lines = _help(policy, tree, host)
    for line in lines:
        changed, there, almost, near = _apply(line, policy, host)
        assert _works(changed, tree, there), line
        assert not _works(almost, tree, near), f"less would do than: {line}"
    return lines


def test_all_ways_out_of_a_refusal_are_suggested() -> None:
    tree = _model(kv=20_000)
    lines = _check(Policy.parse('prefer = "cuda"').top, tree, machine("cuda", size="6 GiB"))
    assert lines[0].endswith("more on `cuda:0` would do")
    assert [line.split()[0] for line in lines[1:]] == ["1", "`overflow", "`[workload]`", '`"cpu"`']


def test_no_context_is_suggested_that_has_no_room_for_the_answer() -> None:
    tree, host = _model(kv=20_000), machine("cuda", size="6 GiB")
    policy = Policy.parse('prefer = "cuda"\n[workload]\ncontext = 4096\nnew_tokens = 3000\n').top
    assert not any("context" in line for line in _check(policy, tree, host))


def test_several_devices_are_suggested_where_one_is_not_enough() -> None:
    lines = _check(Policy.parse('prefer = "cuda"').top, _model(blocks=16), machine("cuda", size="4 GiB"))
    assert "3 more devices like `cuda:0`" in lines


def test_the_largest_device_is_the_one_to_grow() -> None:
    host = Host([Accelerator("cuda", memory=size) for size in ("2 GiB", "3 GiB")], memory="4 GiB")
    assert any("`cuda:1` would do" in line for line in _check(Policy.parse('prefer = "cuda"').top, _model(), host))


def test_no_memory_is_suggested_that_a_cap_would_not_let_be_used() -> None:
    text = 'prefer = "cuda"\n[memory.cuda]\ncap = "2 GiB"\n'
    lines = _check(Policy.parse(text).top, _model(), machine("cuda"))
    assert not any("would do" in line for line in lines)


def test_no_further_device_is_suggested_where_one_must_do() -> None:
    for text in ('prefer = "cuda"\nsplit = "never"', 'prefer = "cuda:0"'):
        assert not any(
            "more device" in line for line in _check(Policy.parse(text).top, _model(), machine("cuda", size="3 GiB"))
        )


def test_no_device_is_suggested_beyond_the_last_number_there_is() -> None:
    host = Host([Accelerator("cuda", id=127, memory="3 GiB")], memory="64 GiB")
    assert not any("more device" in line for line in _check(Policy.parse('prefer = "cuda"').top, _model(), host))


def test_the_disk_is_suggested_where_the_cpu_has_no_room() -> None:
    small = machine("cuda", size="4 GiB", memory="512 MiB")
    assert any('`overflow = "disk"`' in line for line in _check(Policy.parse('prefer = "cuda"').top, _model(), small))
    mac = Host([Accelerator("mps", memory="4 GiB")], memory="4 GiB", disk="1 TiB")
    assert any('`overflow = "disk"`' in line for line in _check(Policy.parse('prefer = "mps"').top, _model(), mac))


def test_nothing_is_suggested_that_avoid_excludes() -> None:
    text = 'prefer = "cuda"\navoid = "cpu"'
    lines = _check(Policy.parse(text).top, _model(), machine("cuda", size="4 GiB"))
    assert not any('"cpu"' in line for line in lines)


def test_a_host_without_the_device_is_offered_the_cpu_alone() -> None:
    assert _check(Policy.parse('prefer = "cuda"').top, _model(), machine()) == ['`"cpu"` at the end of `prefer`']


def test_the_cpu_with_the_disk_is_offered_where_needed() -> None:
    host = machine(memory="4 GiB")
    assert _check(Policy.parse('prefer = "cuda"').top, _model(), host) == [
        '`"cpu"` at the end of `prefer`, with `overflow = "disk"`'
    ]


def test_a_rule_that_is_out_of_room_gets_help_too() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "layers.*"\nprefer = "cuda:0"\n'
    assert _check(Policy.parse(text).top, _model(), machine("cuda", "cuda", size="4 GiB"))


def test_nothing_is_suggested_where_no_single_change_would_do() -> None:
    host = Host(memory="1 GiB", disk="1 GiB")
    assert _help(Policy.parse('prefer = "cuda"').top, small_llama(), host) == ['`"cpu"` at the end of `prefer`']
    assert _help(Policy.parse('prefer = "cuda"\navoid = "cpu"').top, small_llama(), host) == []


@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=1, max_size=3),
    st.integers(1, 24),
    st.sampled_from([0, 5_000, 40_000]),
    st.sampled_from(["when-needed", "balanced", "never"]),
)
def test_every_suggestion_works_and_the_next_smaller_does_not(
    cards: list[int], blocks: int, kv: int, split: str
) -> None:
    host = Host([Accelerator("cuda", memory=f"{size} GiB") for size in cards], memory="8 GiB", disk="1 TiB")
    policy = Policy.parse(f'prefer = "cuda"\nsplit = "{split}"').top
    tree = _model(blocks=blocks, kv=kv)
    if not _works(policy, tree, host):
        _check(policy, tree, host)


def test_more_on_each_of_two_small_devices_is_suggested():
    policy = Policy.parse(
        """
        prefer = "cuda"
        [[rule]]
        name = "first"
        match = "layers.{0..3}"
        prefer = "cuda:0"
        [[rule]]
        name = "second"
        match = "layers.{4..7}"
        prefer = "cuda:1"
        """
    ).top
    host = Host([Accelerator("cuda", memory="2 GiB")] * 2, memory="64 GiB")
    lines = _help(policy, _model(), host)
    assert any(line.endswith("more on each of `cuda:0`, `cuda:1` would do") for line in lines), lines
    for line in lines:
        changed, larger, same, smaller = _apply(line, policy, host)
        assert _works(changed, _model(), larger) and not _works(same, _model(), smaller)


@pytest.mark.parametrize("split", ["balanced", "fastest"])
def test_what_is_suggested_for_engines_does_under_every_split(split: str) -> None:
    # One device alone would do with less, and only `when-needed` takes one alone.
    policy = Policy.parse(f'prefer = "cuda"\nsplit = "{split}"\n[workload]\ncontext = 32768\n').top
    tree, host = ModelTree.load("t5-11b"), machine("cuda", "cuda", size="40 GiB")
    lines = _help(policy, tree, host, "vllm")
    assert lines
    for line in lines:
        changed, there, _, _ = _apply(line, policy, host)
        assert _works(changed, tree, there, "vllm"), line


def test_what_an_engine_would_keep_is_suggested_with_its_size() -> None:
    policy, host = Policy.parse('prefer = "cuda"').top, machine("cuda", size="16 GiB")
    lines = _help(policy, ModelTree.load("qwen2.5-14b"), host, "vllm")
    line = next(line for line in lines if "overflow" in line)
    assert parse_size(line.partition("which keeps ")[2].partition(" there")[0]) > 10 * GIB
