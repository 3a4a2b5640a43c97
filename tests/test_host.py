import copy
import dataclasses
import pickle
from pathlib import Path

import pytest

from devpolicy._core.host import Accelerator, Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.simulation.catalogue import host_catalogue
from devpolicy.errors import HostError

GIB = 1 << 30
FIXTURES = Path(__file__).parents[1] / "fixtures"


def card(**facts):
    return Accelerator("cuda", **{"memory": "24 GiB", **facts})


def codes(text):
    with pytest.raises(HostError) as caught:
        Host.parse(text, "host.toml")
    assert all(finding.place is not None for finding in caught.value.diagnostics)
    return [(finding.code, finding.place.line) for finding in caught.value.diagnostics]


class TestValues:
    def test_sizes_are_bytes_and_free_defaults_to_the_total(self):
        host = Host([card(free="22 GiB"), card()], memory="64 GiB", disk="1 TB")
        assert [device.free for device in host.devices("cuda")] == [22 * GIB, 24 * GIB]
        assert (host.memory, host.free, host.disk, host.disk_free) == (64 * GIB, 64 * GIB, 10**12, 10**12)

    def test_ids_default_to_the_position_among_their_type(self):
        host = Host([card(), Accelerator("xpu", memory=1), card(), Accelerator("mps", memory=1)], memory=0)
        assert [(device.type, device.id) for device in host.accelerators] == [
            ("cuda", 0),
            ("cuda", 1),
            ("mps", 0),
            ("xpu", 0),
        ]

    def test_the_order_of_devices_is_no_part_of_a_host(self):
        one, other = card(id=0, name="a"), card(id=1, name="b")
        assert Host([one, other], memory=0) == Host([other, one], memory=0)

    def test_ids_may_have_gaps(self):
        host = Host([card(id=0), card(id=2)], memory=0)
        assert [device.id for device in host.devices("cuda")] == [0, 2]
        assert Host.parse(host.to_toml()) == host

    def test_two_devices_with_one_id_are_refused(self):
        with pytest.raises(HostError, match="two accelerators are `cuda:1`"):
            Host([card(id=1), card()], memory=0)

    def test_cuda_and_xpu_in_one_machine_are_not_judged(self):
        assert len(Host([card(), Accelerator("xpu", memory=1)], memory=0).accelerators) == 2

    def test_mps_always_shares_the_memory_of_the_cpu(self):
        assert Accelerator("mps", memory=1).unified
        assert not card().unified

    def test_versions_and_faults_take_mappings_and_pairs_alike(self):
        by_mapping = Host(memory=0, versions={"torch": "2.13.0", "python": "3.11.7"}, faults={"cuda": "no"})
        by_pairs = Host(memory=0, versions=[("python", "3.11.7"), ("torch", "2.13.0")], faults=[("cuda", "no")])
        assert by_mapping == by_pairs
        assert by_mapping.version("torch") == "2.13.0"
        assert by_mapping.fault("cuda") == "no"
        assert by_mapping.version("jax") is None
        assert by_mapping.fault("mps") is None

    def test_systems_are_known_by_their_other_names(self):
        host = Host(memory=0, os="Darwin", arch="aarch64")
        assert (host.os, host.arch) == ("macos", "arm64")
        assert Host(memory=0, arch="AMD64").arch == "x86_64"

    def test_a_host_is_a_frozen_hashable_value_that_travels(self):
        host = Host([card(capability=(8, 9))], memory="1 GiB", versions={"torch": "2.13.0"}, description="mine")
        assert pickle.loads(pickle.dumps(host)) == host == copy.deepcopy(host)
        assert hash(host) == hash(pickle.loads(pickle.dumps(host)))
        with pytest.raises(dataclasses.FrozenInstanceError):
            host.memory = 0
        assert not hasattr(host, "__dict__")

    def test_a_variant_is_made_by_replacing_facts(self):
        host = Host.load("2x24gb")
        tight = dataclasses.replace(host, accelerators=tuple(dataclasses.replace(a, free=0) for a in host.accelerators))
        assert [device.free for device in tight.devices("cuda")] == [0, 0]
        assert tight.versions == host.versions

    def test_a_description_is_no_part_of_a_hosts_identity(self):
        assert Host(memory=1, description="a") == Host(memory=1, description="b")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Accelerator("gpu", memory=1), "`gpu` is no value of `type`"),
            (lambda: Accelerator("cudda", memory=1), "did you mean `cuda`?"),
            (lambda: Accelerator(0, memory=1), "`type` is one of cuda"),
            (lambda: card(id=128), "`id` is between 0 and 127"),
            (lambda: card(id=-1), "`id` is between 0 and 127"),
            (lambda: card(id=True), "`id` is a whole number, not `True`"),
            (lambda: card(id="0"), "`id` is a whole number"),
            (lambda: Accelerator("mps", 1, memory=1), "one mps device"),
            (lambda: card(memory="24"), "`memory`: `24` has no unit"),
            (lambda: card(memory=-1), "`memory`: a size is not negative"),
            (lambda: card(memory=10**5000), "`memory`: a size of"),
            (lambda: card(memory=None), "`memory`: a size is a number of bytes"),
            (lambda: card(free="25 GiB"), "`free` is larger than `memory`"),
            (lambda: card(capability=(8,)), "`capability` is two whole numbers"),
            (lambda: card(capability="8.9"), "`capability` is two whole numbers"),
            (lambda: card(capability=(8, True)), "`capability` is two whole numbers"),
            (lambda: card(name=""), "`name` is text that is not empty"),
            (lambda: card(name="\ud800"), "cannot be written as UTF-8"),
            (lambda: card(unified=1), "`unified` is true or false"),
            (lambda: Host(memory=1, free=2), "`free` is larger than `memory`"),
            (lambda: Host(memory=1, disk_free=2), "`disk_free` is larger than `disk`"),
            (lambda: Host(memory=1, os="plan9"), "`plan9` is no value of `os`"),
            (lambda: Host(memory=1, faults={"gpu": "x"}), "`gpu` is no value of `faults`"),
            (lambda: Host(memory=1, versions=[("a", "1"), ("a", "2")]), "names `a` 2 times"),
            (lambda: Host(memory=1, faults={"CUDA": "1", "cuda": "2"}), "names `cuda` 2 times"),
            (lambda: Host(memory=1, versions="torch"), "`versions` takes a mapping"),
            (lambda: Host(memory=1, versions={"torch": 2}), "`versions` is text"),
            (lambda: Host(["cuda"], memory=1), "`accelerators` takes accelerators"),
            (lambda: Host(None, memory=1), "`accelerators` takes a list"),
            (lambda: Host([Accelerator("mps", memory=1)] * 2, memory=1), "`mps` devices are more"),
            (lambda: Host([card()] * 129, memory=1), "`cuda` devices are more"),
        ],
    )
    def test_malformed_facts_are_refused_by_name(self, make, message):
        with pytest.raises(HostError) as caught:
            make()
        assert message in str(caught.value)
        assert isinstance(caught.value, ValueError)


class TestFiles:
    def test_a_table_with_a_count_stands_for_several_devices(self):
        text = """
            memory = "8 GiB"
            [[accelerator]]
            type = "cuda"
            memory = "1 GiB"
            [[accelerator]]
            type = "cuda"
            count = 3
            memory = "2 GiB"
            physical = 4
        """
        devices = Host.parse(text).devices("cuda")
        assert [(device.id, device.memory // GIB, device.physical) for device in devices] == [
            (0, 1, None),
            (1, 2, 4),
            (2, 2, 5),
            (3, 2, 6),
        ]

    def test_a_count_with_an_id_goes_on_from_it(self):
        text = 'memory = 1\n[[accelerator]]\ntype = "cuda"\nmemory = 1\nid = 2\ncount = 2'
        assert [device.id for device in Host.parse(text).devices("cuda")] == [2, 3]

    def test_equal_devices_are_written_as_one_table(self):
        text = Host.load("8x80gb").to_toml()
        assert text.count("[[accelerator]]") == 1
        assert "count = 8" in text
        assert 'memory = "81559 MiB"' in text

    def test_every_finding_comes_at_once_at_its_place(self):
        text = """\
memory = "8 GiB"
free = "9 GiB"
arch = "x68_64"
nmae = "x"
[faults]
cudda = "x"
[[accelerator]]
type = "cuda"
memory = "24"
[[accelerator]]
type = "cuda"
"""
        assert sorted(codes(text), key=lambda finding: finding[1]) == [
            ("DP106", 2),
            ("DP104", 3),
            ("DP103", 4),
            ("DP103", 6),
            ("DP104", 9),
            ("DP105", 10),
        ]

    @pytest.mark.parametrize(
        ("text", "finding"),
        [
            ("", ("DP105", 1)),
            ("memory", ("DP101", 1)),
            ("memory = 1.5", ("DP102", 1)),
            ("memory = 0x" + "f" * 5000, ("DP101", 1)),
            ("memory = '9000000 TiB'", ("DP104", 1)),
            ("memory = 1\ndisk_free = 1", ("DP105", 2)),
            ("memory = 1\nname = ''", ("DP104", 2)),
            ("memory = 1\naccelerator = 1", ("DP102", 2)),
            ("memory = 1\n[versions]\ntorch = 2.6", ("DP102", 3)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\nfree = 2", ("DP106", 5)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\nid = 128", ("DP104", 5)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\nid = 0x" + "f" * 5000, ("DP101", 5)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\ncount = 0", ("DP104", 5)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\ncapability = 8.9", ("DP102", 5)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\ncount = 2\nuuid = 'GPU-1'", ("DP106", 6)),
            ("memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\nid = 127\ncount = 2", ("DP104", 2)),
            ("memory = 1\n[[accelerator]]\ntype = 'mps'\nmemory = 1\ncount = 2", ("DP104", 2)),
            (
                "memory = 1\n[[accelerator]]\ntype = 'cuda'\nmemory = 1\nid = 1\n\n"
                "[[accelerator]]\ntype = 'cuda'\nmemory = 1",
                ("DP104", 7),
            ),
        ],
    )
    def test_what_is_wrong_is_shown_where_it_stands(self, text, finding):
        assert codes(text) == [finding]

    def test_a_message_reads_like_a_compilers(self):
        with pytest.raises(HostError) as caught:
            Host.parse('memory = "8 GiB"\nacclerator = []\n', "host.toml")
        assert str(caught.value) == (
            "error[DP103]: unknown key `acclerator` in the host file\n"
            " --> host.toml:2:1\n"
            "  |\n"
            "2 | acclerator = []\n"
            "  | ^^^^^^^^^^ not a key of a host\n"
            "  |\n"
            "  = help: did you mean `accelerator`?"
        )

    def test_text_of_another_type_is_refused(self):
        with pytest.raises(HostError, match="read from TOML text, not from a value of type"):
            Host.parse(Path("host.toml"))


class TestLoading:
    def test_a_file_is_loaded_by_its_path_and_names_the_host(self, tmp_path):
        path = tmp_path / "build-box.toml"
        path.write_text('memory = "8 GiB"\n')
        assert Host.load(path) == Host.load(str(path)) == Host(memory="8 GiB", name="build-box")

    def test_a_name_in_the_file_is_kept(self, tmp_path):
        path = tmp_path / "box.toml"
        path.write_text('name = "ours"\nmemory = 1\n')
        assert Host.load(path).name == "ours"

    @pytest.mark.parametrize(
        ("name", "way_out"),
        [
            ("2x24g", "did you mean `2x24gb`?"),
            ("ecc-on-query", "did you mean `faulty/ecc-on-query`?"),
            ("faulty/ecc-on-qery", "did you mean `faulty/ecc-on-query`?"),
            ("", "known are "),
        ],
    )
    def test_an_unknown_name_gives_the_likely_one(self, name, way_out):
        with pytest.raises(HostError) as caught:
            Host.load(name)
        assert caught.value.code == "DP202"
        assert way_out in caught.value.diagnostics[0].help

    @pytest.mark.parametrize("path", ["nowhere/host.toml", "host-that-is-not.toml", "./host", "a\0b.toml"])
    def test_a_path_that_cannot_be_read_is_an_error_that_names_it(self, path):
        with pytest.raises(HostError) as caught:
            Host.load(path)
        assert caught.value.code == "DP109"

    def test_a_folder_is_no_host(self, tmp_path):
        with pytest.raises(HostError):
            Host.load(tmp_path)

    def test_something_else_is_no_name(self):
        with pytest.raises(HostError, match="by name or path"):
            Host.load(24)

    def test_bytes_that_are_no_text_are_refused_with_their_place(self, tmp_path):
        path = tmp_path / "latin.toml"
        path.write_bytes(b"memory = 1\nname = '\xe9'\n")
        with pytest.raises(HostError) as caught:
            Host.load(path)
        assert (caught.value.code, caught.value.diagnostics[0].place.line) == ("DP101", 2)


class TestCatalogue:
    @pytest.mark.parametrize("name", catalogue())
    def test_every_shipped_host_loads_and_reads_back(self, name):
        host = Host.load(name)
        assert host.name == name
        assert host.description
        again = Host.parse(host.to_toml())
        assert again == host
        assert again.description == host.description

    @pytest.mark.parametrize("name", catalogue())
    def test_every_shipped_host_is_listed_in_the_readme(self, name):
        assert f"| `{name}` |" in (FIXTURES / "README.md").read_text()

    def test_the_readme_lists_no_host_that_is_not_shipped(self):
        section = (FIXTURES / "README.md").read_text().split("## Hosts")[1].split("## Fleets")[0]
        listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert sorted(listed) == sorted(catalogue())

    def test_the_hosts_that_the_documents_name_are_there(self):
        assert {"cpu-only", "1x8gb", "1x24gb", "2x24gb", "24-24-12-8", "80-24", "4x80gb", "8x80gb", "8x141gb"} <= set(
            catalogue()
        )

    def test_the_catalogue_is_in_order_of_size_with_the_faulty_last(self):
        names = list(host_catalogue())
        assert names[0] == "cpu-only"
        faulty = [name.startswith("faulty/") for name in names]
        assert faulty == sorted(faulty)
        counts = [len(host.accelerators) for name, host in host_catalogue().items() if not name.startswith("faulty/")]
        assert counts == sorted(counts)

    def test_only_faulty_hosts_have_faults(self):
        for name, host in host_catalogue().items():
            has_fault = bool(host.faults) or any(device.fault or device.memory_pressure for device in host.accelerators)
            assert has_fault == (name.startswith("faulty/") and name != "faulty/nearly-full"), name

    def test_a_shipped_file_is_toml_1_0(self):
        import tomllib

        for name, read in catalogue().items():
            assert tomllib.loads(read().decode()), name


def test_a_host_that_was_measured_says_its_own_speeds():
    text = """
memory = "64 GiB"
[speed]
link = "25 GB"
crossing_ns = 0
[[accelerator]]
type = "cuda"
memory = "24 GiB"
bandwidth = "890 GB"
"""
    host = Host.parse(text)
    assert host.speed == (("crossing_ns", 0), ("link", 25 * 10**9))
    assert host.devices("cuda")[0].bandwidth == 890 * 10**9
    assert Host.parse(host.to_toml()) == host
    assert (
        Host([Accelerator("cuda", memory="24 GiB", bandwidth="890 GB")], memory="64 GiB", speed=dict(host.speed))
        == host
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [("speed = { link = 0 }", "DP104"), ("speed = { wifi = 1 }", "DP103"), ("speed = 3", "DP102"),
     ("speed = { crossing_ns = -1 }", "DP104"), ("speed = { ram = true }", "DP102")],
)  # fmt: skip
def test_a_speed_that_makes_no_sense_is_refused_with_its_place(line, code):
    with pytest.raises(HostError) as refused:
        Host.parse(f'memory = "1 GiB"\n{line}\n')
    assert refused.value.code == code
    assert refused.value.diagnostics[0].place.line == 2


@pytest.mark.parametrize("speed", [3, {"link": 0}, {"wifi": 1}, [("link", 1), ("link", 2)], {"crossing_ns": "1 B"}])
def test_a_speed_that_makes_no_sense_is_refused_in_python_too(speed):
    with pytest.raises(HostError):
        Host(memory="1 GiB", speed=speed)


def test_an_earlier_name_of_memory_pressure_is_read():
    text = 'memory = "8 GiB"\n[[accelerator]]\ntype = "cuda"\nmemory = "4 GiB"\n{} = "1 GiB"\n'
    old, new = (Host.parse(text.format(key)) for key in ("neighbour", "memory_pressure"))
    assert old == new
    assert "neighbour" not in old.to_toml()
