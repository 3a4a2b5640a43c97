import random

import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.host import Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.host.fields import ACCELERATOR_FIELDS, HOST_FIELDS
from devpolicy._core.sizes import GIB
from devpolicy.errors import HostError
from devpolicy.testing.strategies import accelerators, faulty_hosts, hosts

TEXTS = [read().decode() for read in catalogue().values()]
SNIPPETS = [
    '"',
    "[",
    "]",
    "=",
    "\n",
    "0",
    "-1",
    "1e3",
    "[[accelerator]]\n",
    "count = 2\n",
    'type = "mps"\n',
    "id = 0\n",
    "é",
]


@given(hosts() | faulty_hosts())
def test_a_host_reads_back_as_it_was_written(host):
    text = host.to_toml()
    assert Host.parse(text) == host
    assert Host.parse(text.encode()) == host
    assert Host.parse(text).to_toml() == text


@given(hosts())
def test_ids_stand_in_order_and_free_is_at_most_the_total(host):
    for kind in {device.type for device in host.accelerators}:
        assert [device.id for device in host.devices(kind)] == list(range(len(host.devices(kind))))
    assert all(0 <= device.free <= device.memory for device in host.accelerators)
    assert 0 <= host.free <= host.memory


@given(st.text() | st.binary())
def test_no_text_makes_reading_raise_anything_but_our_error(text):
    refused_with_a_place_or_read(text)


@given(st.data())
def test_no_change_of_a_good_file_raises_a_foreign_error(data):
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 20))
        text = text[:at] + data.draw(st.sampled_from(SNIPPETS) | st.text(max_size=5)) + text[at + gone :]
    refused_with_a_place_or_read(text)


TOML_VALUES = st.recursive(
    st.integers(-(2**70), 2**70).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.sampled_from(['"24 GiB"', '"24"', '""', '"cuda"', '"mps"', "true", "1979-05-27", "[8, 9]", "[]", "{}"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda entries: f"[{', '.join(entries)}]"),
    max_leaves=4,
)
KEYS = st.sampled_from((*(entry.name for entry in (*HOST_FIELDS, *ACCELERATOR_FIELDS)), "meomry"))


@given(
    st.dictionaries(KEYS, TOML_VALUES, max_size=6), st.lists(st.dictionaries(KEYS, TOML_VALUES, max_size=6), max_size=3)
)
def test_no_value_of_any_key_raises_a_foreign_error(top, tables):
    if tables:
        top.pop("accelerator", None)
    lines = [f"{key} = {value}" for key, value in top.items()]
    for entry in tables:
        lines += ["[[accelerator]]", *(f"{key} = {value}" for key, value in entry.items())]
    refused_with_a_place_or_read("\n".join(lines))


def refused_with_a_place_or_read(text):
    try:
        host = Host.parse(text, "fuzz.toml")
    except HostError as refused:
        assert refused.diagnostics
        for finding in refused.diagnostics:
            assert finding.code.startswith("DP10")
            assert finding.place is not None
            assert finding.place.source == "fuzz.toml"
    else:
        assert Host.parse(host.to_toml()) == host


@pytest.mark.parametrize("seed", range(2))
def test_one_of_three_gpus_nearly_full_shrinks(seed):
    def wanted(host):
        cards = host.devices("cuda")
        return len(cards) >= 3 and any(card.free < card.memory / 10 for card in cards)

    host = find(hosts(), wanted, random=random.Random(seed))
    assert len(host.accelerators) == 3
    assert {(card.memory >> 30, card.name) for card in host.accelerators} == {(8, None)}
    assert sorted(card.free for card in host.accelerators) == [0, 8 * GIB, 8 * GIB]


def test_the_simplest_host_has_no_accelerator():
    host = find(hosts(), lambda host: True)
    assert host == Host(memory="16 GiB")


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda"])
def test_each_type_occurs_alone(kind):
    host = find(hosts(), lambda host: {device.type for device in host.accelerators} == {kind})
    assert len(host.accelerators) == 1


@given(hosts(types=["cuda"], min_accelerators=2, max_accelerators=3, memory=[1 << 20], full=False, mixed=False))
def test_bounds_are_kept(host):
    assert 2 <= len(host.devices("cuda")) == len(host.accelerators) <= 3
    assert {(device.memory, device.free) for device in host.accelerators} == {(1 << 20, 1 << 20)}
    assert host.free == host.memory


@given(faulty_hosts(max_accelerators=3))
def test_a_faulty_host_has_a_fault(host):
    assert host.faults or any(device.fault for device in host.accelerators)


@given(accelerators(fault=True), accelerators(full=False))
def test_accelerators_have_a_fault_only_where_it_is_asked_for(broken, sound):
    assert broken.fault
    assert sound.fault is None
    assert sound.free == sound.memory


@pytest.mark.parametrize(
    "bad",
    [{"types": ["gpu"]}, {"types": []}, {"memory": []}, {"ram": [-1]}, {"min_accelerators": 3, "max_accelerators": 2}],
)
def test_bounds_that_make_no_sense_are_refused_at_once(bad):
    with pytest.raises(InvalidArgument):
        hosts(**bad)


def test_more_macs_gpus_than_there_are_is_refused_at_once():
    with pytest.raises(InvalidArgument, match="no machine"):
        hosts(types=["mps"], min_accelerators=2)
