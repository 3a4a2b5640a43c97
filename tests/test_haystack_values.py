"""Our device values against the real `haystack.utils.device`: the same, except what the documentation lists."""

from __future__ import annotations

import builtins
import inspect
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core import device as ours
from devpolicy._core.device import ComponentDevice, Device, DeviceMap
from devpolicy._core.device.default import default_device
from devpolicy._core.text import visible
from devpolicy.errors import DeviceError
from devpolicy.testing.strategies import component_devices, device_maps, devices

theirs = pytest.importorskip("haystack.utils.device")

NAMES = ("DeviceType", "Device", "DeviceMap", "ComponentDevice")
DIFFERENCES = Path(__file__).parents[1] / "docs" / "differences-from-haystack.md"


def namespace(library: ModuleType) -> dict[str, Any]:
    return {name: getattr(library, name) for name in NAMES}


def plain(value: object) -> object:
    """A value that can be compared across the two libraries."""
    if type(value).__name__ in ("Device", "DeviceType"):
        return str(value)
    if type(value).__name__ in ("ComponentDevice", "DeviceMap"):
        return value.to_dict()  # type: ignore[attr-defined]
    return value


def outcome(action: Any) -> tuple[str, object]:
    """What a call comes to: its value, or that it was refused. Any other exception goes through."""
    try:
        return "value", plain(action())
    except ValueError as refused:
        return "refused", str(refused)


# Every row of the documentation.


def rows() -> list[tuple[str, str, str]]:
    found = []
    for line in DIFFERENCES.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 4:
            found.append((cells[0].strip("`"), cells[1], cells[2]))
    return found


def check(expression: str, expected: str, library: ModuleType) -> None:
    raised = re.fullmatch(r"raises `(\w+)`", expected)
    if raised is None:
        assert eval(expression, namespace(library)) == eval(expected.strip("`"), namespace(library))
        return
    error = DeviceError if raised[1] == "DeviceError" else getattr(builtins, raised[1])
    with pytest.raises(error):
        eval(expression, namespace(library))


def test_every_line_of_the_tables_of_differences_is_read() -> None:
    lines = [line for line in DIFFERENCES.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows()) == len(lines) > 30


@pytest.mark.parametrize(("expression", "with_haystack", "with_devpolicy"), rows(), ids=[row[0] for row in rows()])
def test_a_documented_difference_is_as_documented(expression: str, with_haystack: str, with_devpolicy: str) -> None:
    check(expression, with_haystack, theirs)
    check(expression, with_devpolicy, ours)
    assert with_haystack != with_devpolicy, "no difference at all"


# The same names.


def members(cls: type) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | staticmethod | classmethod))
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_public_member_of_haystack_is_there(name: str) -> None:
    for member, reference in members(getattr(theirs, name)).items():
        own = inspect.getattr_static(getattr(ours, name), member)
        assert isinstance(own, property) == isinstance(reference, property)
        if not isinstance(reference, property):
            expected = inspect.signature(getattr(getattr(theirs, name), member))
            actual = inspect.signature(getattr(getattr(ours, name), member))
            described = [(p.name, p.kind, p.default) for p in expected.parameters.values()]
            assert [(p.name, p.kind, p.default) for p in actual.parameters.values()] == described, member


@pytest.mark.parametrize("name", ["Device", "DeviceMap", "ComponentDevice"])
def test_fields_have_haystacks_names_and_order(name: str) -> None:
    fields = list(getattr(theirs, name).__dataclass_fields__)
    assert list(getattr(ours, name).__dataclass_fields__) == fields


def test_every_device_type_of_haystack_is_the_same() -> None:
    for reference in theirs.DeviceType:
        assert ours.DeviceType[reference.name].value == reference.value


# The same results, on everything that both can express.

CONVERSIONS = ("to_dict", "to_hf", "to_torch_str", "to_spacy")


def reference_of(device: ComponentDevice) -> Any:
    return theirs.ComponentDevice.from_dict(device.to_dict())


def in_haystacks_order(device: ComponentDevice) -> ComponentDevice:
    """The value as `from_dict` orders it, so that the orders of both sides are the same."""
    return ComponentDevice.from_dict(device.to_dict())


def assert_same(own: tuple[str, object], reference: tuple[str, object]) -> None:
    assert own[0] == reference[0]
    if own[0] == "refused":
        assert str(reference[1]) in str(own[1])
    else:
        assert repr(own[1]) == repr(reference[1])  # also the order of entries, and 1 against True


@given(component_devices(), st.sampled_from(CONVERSIONS))
def test_conversions_give_what_haystacks_give(device: ComponentDevice, conversion: str) -> None:
    reference = reference_of(device)
    single = device.to_dict().get("device", "")
    if conversion == "to_spacy" and (single == "cuda" or single.startswith(("mps", "xpu"))):
        return  # documented
    if conversion == "to_hf" and "cuda" in device.to_dict().get("device_map", {}).values():
        return  # documented
    assert_same(outcome(getattr(device, conversion)), outcome(getattr(reference, conversion)))


@given(component_devices())
def test_to_torch_gives_what_haystacks_gives(device: ComponentDevice) -> None:
    pytest.importorskip("torch")
    assert_same(outcome(device.to_torch), outcome(reference_of(device).to_torch))


@given(device_maps().map(ComponentDevice.from_multiple) | component_devices())
def test_properties_give_what_haystacks_give(device: ComponentDevice) -> None:
    reference = reference_of(device)
    assert device.has_multiple_devices == reference.has_multiple_devices
    assert_same(outcome(lambda: device.first_device), outcome(lambda: reference.first_device))


KWARGS = st.dictionaries(st.sampled_from(["model", "torch_dtype", "device", "device_map"]), st.none() | st.just("auto"))


@given(component_devices().map(in_haystacks_order), KWARGS, st.booleans())
def test_keyword_arguments_are_those_of_haystack(
    device: ComponentDevice, kwargs: dict[str, Any], overwrite: bool
) -> None:
    if "cuda" in device.to_dict().get("device_map", {}).values():
        return  # documented
    expected = reference_of(device).update_hf_kwargs(dict(kwargs), overwrite=overwrite)
    if overwrite:  # documented: the other key goes
        expected.pop("device" if device.has_multiple_devices else "device_map", None)
    assert device.update_hf_kwargs(kwargs, overwrite=overwrite) == expected


@given(device_maps(min_size=0))
def test_device_maps_behave_as_haystacks(device_map: DeviceMap) -> None:
    reference = theirs.DeviceMap.from_dict(device_map.to_dict())
    assert device_map.to_dict() == reference.to_dict()
    assert list(device_map.to_dict()) == list(reference.to_dict())
    assert len(device_map) == len(reference)
    assert [(name, str(device)) for name, device in device_map] == [(name, str(device)) for name, device in reference]
    assert plain(device_map.first_device) == plain(reference.first_device)
    assert all(name in device_map for name, _ in reference)
    assert "no such name" not in device_map


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.integers(-2, 127) | devices(disk=True).map(str) | st.floats() | st.none() | st.just("meta"),
    )
)
def test_hugging_face_maps_are_read_as_haystack_reads_them(hf_device_map: dict[str, Any]) -> None:
    def read(library: ModuleType) -> tuple[str, object]:
        try:
            return outcome(lambda: library.DeviceMap.from_hf(hf_device_map))
        except TypeError as wrong:
            return "wrong type", str(wrong)

    own, reference = read(ours), read(theirs)
    # Ours is both kinds of error at once.
    assert (own[0] == "value") == (reference[0] == "value")
    # What an error of ours quotes is written with escapes where a terminal would take it for a command.
    assert own == reference if own[0] == "value" else visible(str(reference[1])) in str(own[1])


# Where the two part, on arbitrary text.

PIECES = st.sampled_from(
    ["cpu", "cuda", "disk", "mps", "xpu", "npu", "hpu", "meta", ":", "0", "1", "9", "-", "+", "_", " ", "٣", "\n", "x"]
)
TEXTS = st.lists(PIECES, max_size=5).map("".join) | st.text()


@given(TEXTS)
def test_text_that_both_accept_is_the_same_device(text: str) -> None:
    own, reference = outcome(lambda: Device.from_str(text)), outcome(lambda: theirs.Device.from_str(text))
    if own[0] == reference[0] == "value":
        assert own[1] == (reference[1] if not text.startswith("cpu") else "cpu")
    elif own[0] == "value":
        assert text[:3] in ("npu", "hpu")
    elif reference[0] == "value":
        kind, _, number = text.partition(":")
        assert kind == "disk" or number != str(int(number)) or int(number) > 127


@given(TEXTS)
def test_what_is_accepted_is_what_torch_reads(text: str) -> None:
    """The strictness is torch's own: nothing that it reads for our types is refused, except ids that it wraps."""
    torch = pytest.importorskip("torch")
    try:
        kept = torch.device(text)
    except RuntimeError:
        kept = None
    status, _ = outcome(lambda: Device.from_str(text))
    kind, _, number = text.partition(":")
    if kind in ("cpu", "cuda", "mps", "xpu", "hpu"):
        # torch alone would take an id of 128 and more, and keep another.
        wrapped = kept is not None and number != "" and int(number) > 127
        assert (status == "value") == (kept is not None and not wrapped)


def test_no_larger_id_survives_in_torch() -> None:
    torch = pytest.importorskip("torch")
    assert torch.device(f"cuda:{ours.LARGEST_ID}").index == ours.LARGEST_ID
    assert torch.device(f"cuda:{ours.LARGEST_ID + 1}").index != ours.LARGEST_ID + 1


# The same words, so that a search for them finds both.


@pytest.mark.parametrize(
    "expression",
    [
        'DeviceType.from_str("tpu")',
        'Device.from_str("cuda:one")',
        'Device.from_str("cuda:-1")',
        "Device.gpu(-1)",
        'ComponentDevice.from_str("disk")',
        'ComponentDevice.from_multiple(DeviceMap({"a": Device.disk()})).first_device',
        'ComponentDevice.from_multiple(DeviceMap({"a": Device.cpu()})).to_torch_str()',
        'ComponentDevice.from_multiple(DeviceMap({"a": Device.cpu()})).to_torch()',
        'ComponentDevice.from_multiple(DeviceMap({"a": Device.cpu()})).to_spacy()',
        'ComponentDevice.from_dict({"type": "several"})',
        'ComponentDevice.resolve_device("cuda:0")',
        "ComponentDevice.resolve_device(0)",
    ],
)
def test_a_message_holds_haystacks_message(expression: str) -> None:
    with pytest.raises(ValueError) as reference:
        eval(expression, namespace(theirs))
    with pytest.raises(DeviceError) as own:
        eval(expression, namespace(ours))
    assert str(reference.value) in str(own.value)


def test_an_empty_component_device_is_refused_in_haystacks_words() -> None:
    with pytest.raises(ValueError) as reference:
        theirs.ComponentDevice().to_hf()
    with pytest.raises(DeviceError, match=re.escape(str(reference.value))):
        ComponentDevice()


def test_haystacks_own_object_is_pointed_to_the_conversion() -> None:
    with pytest.raises(DeviceError, match="from_haystack"):
        ComponentDevice.resolve_device(theirs.ComponentDevice.from_str("cpu"))


# The default device. A machine has one set of devices, so a stand-in for torch answers both libraries.


def stand_in_torch(*, cuda: bool, xpu: bool, mps: bool) -> Any:
    def says(answer: bool) -> Any:
        return SimpleNamespace(is_available=lambda: answer)

    return SimpleNamespace(cuda=says(cuda), xpu=says(xpu), backends=SimpleNamespace(mps=says(mps)))


@pytest.mark.parametrize(("cuda", "xpu", "mps"), list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("xpu_enabled", ["true", "false", "", "False", None])
@pytest.mark.parametrize("mps_enabled", ["true", "false", None])
def test_the_default_device_is_haystacks(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, xpu: bool, mps: bool, xpu_enabled: str | None, mps_enabled: str | None
) -> None:
    pytest.importorskip("torch")  # without it Haystack never looks at its module-level name
    torch = stand_in_torch(cuda=cuda, xpu=xpu, mps=mps)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(theirs, "torch", torch)
    for name, value in (("HAYSTACK_XPU_ENABLED", xpu_enabled), ("HAYSTACK_MPS_ENABLED", mps_enabled)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert str(default_device()) == theirs.ComponentDevice.resolve_device(None).to_torch_str()


def test_without_a_policy_haystack_chooses_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DEVPOLICY", raising=False)
    reference = theirs.ComponentDevice.resolve_device(None)
    assert ComponentDevice.resolve_device(None).to_dict() == reference.to_dict()
    assert ComponentDevice.resolve_device().to_dict() == reference.to_dict()
