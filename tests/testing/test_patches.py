"""Names of modules that are replaced and put back, whatever stood there, and attributes of classes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.simulation.patches import MANY, ClassPatches, ModulePatches

NAMES = ("ask", "other", "max", "class", "not-a-name", "original_0", "_0", "_1", "_2", "_3")
names = st.sampled_from(NAMES)
speakable = st.sets(st.sampled_from(("ask", "other", "max", "_0", "_1", "_2", "_3")), min_size=MANY)
modules = st.lists(st.sets(names, min_size=1) | speakable, min_size=1, max_size=3)
places = st.tuples(st.integers(0, 2), names)


class Value:
    """Something that is like nothing else, and says nothing when it is compared."""

    __slots__ = ()


@given(
    modules,
    st.lists(places),
    st.dictionaries(places, st.sampled_from(["patched", "deleted"])),
    st.lists(places, unique=True),
)
def test_every_name_has_the_shim_and_then_what_was_there(
    replaced: list[set[str]],
    added_late: list[tuple[int, str]],
    changed: dict[tuple[int, str], str],
    inside: list[tuple[int, str]],
) -> None:
    spaces: list[dict[str, Any]] = [{name: Value() for name in NAMES} for _ in replaced]
    patches, shims = ModulePatches(), {}
    for index, found in enumerate(replaced):
        for name in found:
            shims[index, name] = Value()
            patches.add(spaces[index], name, shims[index, name], spaces[index][name], live=False)
    for _ in range(2):
        for (index, name), how in changed.items():
            if index < len(spaces) and how == "patched":
                spaces[index][name] = Value()
            elif index < len(spaces):
                spaces[index].pop(name, None)
        before = [dict(space) for space in spaces]
        patches.put()
        for index, name in added_late:
            if index < len(spaces) and name in spaces[index] and not patches.has(spaces[index], name):
                shims[index, name] = Value()
                patches.add(spaces[index], name, shims[index, name], spaces[index][name], live=True)
        for (index, name), shim in shims.items():
            assert spaces[index].get(name) is (shim if name in before[index] else None)
        for index, name in inside:
            if (index, name) in shims and name in before[index]:
                spaces[index][name] = Value()
        patches.take()
        assert spaces == before


def test_attributes_of_classes_come_back_where_they_were() -> None:
    class Outer:
        own = "own"

    class Inner(Outer):
        pass

    patches = ClassPatches()
    patches.add(Outer, "own", "shim", "own", live=False)
    patches.add(Inner, "own", "other", "own", live=False)
    patches.put()
    late = type("Late", (Outer,), {"own": "late"})
    patches.add(late, "own", "live", "late", live=True)
    assert (Outer.own, Inner.own, late.own) == ("shim", "other", "live")
    patches.take()
    assert (Outer.own, Inner.own, late.own) == ("own", "own", "late")
    assert "own" not in vars(Inner)


@given(names, st.booleans())
def test_attributes_of_classes_have_any_name(name: str, own: bool) -> None:
    outer = type("Outer", (), {name: "there"})
    owner = outer if own else type("Inner", (outer,), {})
    before = dict(vars(owner))
    patches = ClassPatches()
    patches.add(owner, name, "shim", "there", live=False)
    for _ in range(2):
        patches.put()
        assert getattr(owner, name) == "shim"
        patches.take()
        assert dict(vars(owner)) == before
