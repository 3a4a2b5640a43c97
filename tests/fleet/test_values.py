"""`Fleet`: the value, its TOML form, the catalogue, folders of host files."""

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Host
from devpolicy._core.fleet.catalogue import catalogue
from devpolicy.errors import FleetError
from devpolicy.fleet import Fleet
from devpolicy.testing import strategies

README = Path(__file__).parents[2] / "fixtures" / "README.md"
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6)
NAMES = st.sampled_from(["a", "a-0", "a-1", "a-2", "b-0", "b-01", "node.x"]) | WORDS.filter(str.strip)


@st.composite
def fleets(draw):
    pool = draw(st.lists(strategies.hosts(), min_size=1, max_size=2))
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    labels = st.dictionaries(WORDS.filter(str.strip), WORDS, max_size=2)
    hosts = {name: draw(st.sampled_from(pool)) for name in names}
    faults = {name: "lost" for name in draw(st.lists(NAMES, max_size=2, unique=True)) if name not in hosts}
    return Fleet(hosts, labels={name: draw(labels) for name in names}, faults=faults, name=draw(st.none() | WORDS))


@given(fleets())
@settings(deadline=None)
def test_every_fleet_reads_back_from_its_toml_and_from_a_pickle(fleet):
    text = fleet.to_toml()
    again = Fleet.parse(text)
    assert again == fleet
    assert again.to_toml() == text
    assert pickle.loads(pickle.dumps(fleet)) == fleet == copy.deepcopy(fleet)


@given(fleets(), st.randoms())
@settings(deadline=None)
def test_the_order_of_nodes_is_no_part_of_a_fleet(fleet, random):
    items = list(fleet.items())
    random.shuffle(items)
    labels = {node: fleet.labels(node) for node in fleet}
    again = Fleet(dict(items), labels=labels, faults=dict(fleet.faults), name=fleet.name)
    assert again == fleet
    assert hash(again) == hash(fleet)
    assert list(again) == list(fleet)


@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_fleet_loads_and_is_in_the_readme(name):
    fleet = Fleet.load(name)
    assert fleet.name == name
    assert fleet.description
    assert Fleet.parse(fleet.to_toml()) == fleet
    assert f"| `{name}` |" in README.read_text(encoding="utf-8")


def test_the_catalogue_has_the_fleets_that_documents_name():
    sizes = {name: (len(Fleet.load(name)), len(Fleet.load(name).faults)) for name in catalogue()}
    assert sizes == {
        "laptop-and-server": (2, 0),
        "4-workstations": (4, 0),
        "8x8-h100": (8, 0),
        "mixed-50": (50, 0),
        "broken-nodes": (3, 2),
    }


def test_numbers_in_names_count_as_numbers():
    host = Host.load("cpu-only")
    assert list(Fleet({f"n{at}": host for at in (10, 9, 1)})) == ["n1", "n9", "n10"]


def test_a_folder_of_host_files_is_a_fleet(tmp_path):
    for name in ("2x24gb", "t4"):
        (tmp_path / f"{name}-here.toml").write_text(Host.load(name).to_toml(), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no host")
    fleet = Fleet.load(tmp_path)
    assert dict(fleet) == {"2x24gb-here": Host.load("2x24gb"), "t4-here": Host.load("t4")}
    assert fleet.name == tmp_path.name
    (tmp_path / "broken.toml").write_text("memory = true")
    with pytest.raises(FleetError, match=r"broken\.toml:1"):
        Fleet.load(tmp_path)


def test_hosts_are_found_beside_the_fleets_file(tmp_path):
    (tmp_path / "mine.toml").write_text(Host.load("t4").to_toml(), encoding="utf-8")
    (tmp_path / "fleet.toml").write_text('[node.a]\nhost = "./mine.toml"\n', encoding="utf-8")
    assert Fleet.load(tmp_path / "fleet.toml")["a"] == Host.load("t4")


def test_a_file_that_a_fleet_names_is_not_shown(tmp_path):
    (tmp_path / "secret.toml").write_text('password = "hunter2"', encoding="utf-8")
    (tmp_path / "fleet.toml").write_text('[node.a]\nhost = "./secret.toml"\n', encoding="utf-8")
    with pytest.raises(FleetError) as refused:
        Fleet.load(tmp_path / "fleet.toml")
    assert "hunter2" not in str(refused.value)


BAD = {
    "node = 3": ("DP102", 1, 8),
    '[node.a]\nhost = "2x24g"': ("DP202", 2, 8),
    '[node.a]\nhst = "t4"': ("DP103", 2, 1),
    "[node.a]\nlabels = {}": ("DP105", 1, 1),
    '[node.a]\nhost = { memory = "3" }': ("DP104", 2, 19),
    "[node.a]\nhost = 3": ("DP102", 2, 8),
    '[node.a]\nhost = "t4"\ncount = 2\n[node.a-1]\nhost = "t4"': ("DP106", 4, 1),
    '[node.a]\nhost = "t4"\ncount = 1001': ("DP104", 3, 9),
    '[node.a]\nhost = "t4"\ncount = 600\n[node.b]\nhost = "t4"\ncount = 600': ("DP104", 4, 1),
    '[node.a]\nhost = "t4"\nlabels = { zone = 1 }': ("DP102", 3, 19),
    '[node.a]\nhost = "t4"\n[faults]\na = "gone"': ("DP106", 1, 1),
    '[faults]\na = ""': ("DP104", 2, 5),
    'nodes = "x"': ("DP103", 1, 1),
    "[node.a": ("DP101", 1, 8),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_fleet_file_is_refused_at_its_place(text):
    with pytest.raises(FleetError) as refused:
        Fleet.parse(text)
    found = refused.value.diagnostics[0]
    assert (found.code, found.place.line, found.place.column) == BAD[text]


def test_every_mistake_of_a_fleet_file_is_told_at_once():
    with pytest.raises(FleetError) as refused:
        Fleet.parse('x = 1\n[node.a]\nhost = "nowhere"\n[node.b]\nhst = "t4"\n')
    assert [one.place.line for one in refused.value.diagnostics] == [1, 3, 5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fleet({"": Host.load("t4")}),
        lambda: Fleet({"a": "t4"}),
        lambda: Fleet([("a", Host.load("t4"))]),
        lambda: Fleet({"a": Host.load("t4")}, faults={"a": "gone"}),
        lambda: Fleet({"a": Host.load("t4")}, labels={"b": {}}),
        lambda: Fleet({"a": Host.load("t4")}, labels={"a": {"zone": 1}}),
        lambda: Fleet({"a" * 201: Host.load("t4")}),
        lambda: Fleet({str(at): Host.load("t4") for at in range(1001)}),
        lambda: Fleet(name=""),
        lambda: Fleet.load("4-workstation"),
        lambda: Fleet.load("./nowhere.toml"),
        lambda: Fleet.load(3),
        lambda: Fleet.parse(3),
        lambda: Fleet().without("a"),
    ],
)
def test_a_malformed_fleet_is_refused(make):
    with pytest.raises(FleetError):
        make()


def test_a_name_that_is_near_is_suggested():
    with pytest.raises(FleetError, match="did you mean `4-workstations`"):
        Fleet.load("4-workstation")


def test_a_fleet_is_frozen():
    fleet = Fleet.load("4-workstations")
    with pytest.raises(AttributeError, match="frozen"):
        fleet.name = "other"
    with pytest.raises(TypeError):
        fleet.faults["ada"] = "gone"


def test_nodes_are_lost_and_added():
    fleet = Fleet.load("4-workstations")
    less = fleet.without("ada")
    assert list(less) == ["babbage", "curie", "darwin"]
    assert less.with_node("ada", fleet["ada"], fleet.labels("ada")) == fleet
    assert Fleet.load("broken-nodes").without("stuck").faults.keys() == {"silent"}


def test_a_host_is_restricted_to_what_a_process_sees():
    host = Host.load("24-24-12-8")
    seen = host.restrict([3, 0])
    assert [(one.id, one.name) for one in seen.accelerators] == [
        (0, host.accelerators[3].name),
        (1, host.accelerators[0].name),
    ]
    assert host.restrict([]).accelerators == ()
    assert host.restrict([0, 1, 2, 3]) == host


@pytest.mark.parametrize("ids", [[4], [0, 0], "01", ["0"], 3, [-1], [True]])
def test_a_host_is_not_restricted_to_what_it_has_not(ids):
    with pytest.raises(ValueError, match=r"ids|accelerator"):
        Host.load("24-24-12-8").restrict(ids)
