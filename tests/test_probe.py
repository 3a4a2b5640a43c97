import json
import math
import os
import subprocess
import sys
import textwrap
import time
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.child_process import ChildTimeout
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.host.probe import nvml as nvidia
from devpolicy._core.host.probe import probe
from devpolicy._core.host.probe.devices import Sources, accelerators
from devpolicy._core.host.probe.hardware_hints import vendors
from devpolicy._core.host.probe.probe_result import ProbeResult, accelerator, reason, with_timeout
from devpolicy._core.host.probe.system import (
    Amount,
    TorchBuild,
    _constants,
    control_group_limit,
    disk,
    ram,
    system_and_arch,
    torch_build,
    versions,
)
from devpolicy._core.host.probe.torch_child import probe_in_child
from devpolicy._core.host.probe.torch_probe import MARK, answers, inventory
from devpolicy._core.host.probe.visible import Gpu, Seen, visible
from devpolicy.errors import HostError

GIB = 1 << 30
RAM = Amount(64 * GIB, 50 * GIB)
FOUR = [Gpu("GPU-0a11"), Gpu("GPU-0b22"), Gpu("GPU-1c33"), Gpu("GPU-1d44")]
MIG = [Gpu("GPU-0a11", ("MIG-aa", "MIG-ab")), Gpu("GPU-0b22"), Gpu("GPU-1c33", ())]


@pytest.fixture(scope="module")
def torch_cuda():
    return pytest.importorskip("torch.cuda")


class TestVisibleDevices:
    @pytest.mark.parametrize(
        ("setting", "positions"),
        [
            (None, [0, 1, 2, 3]),
            ("", []),
            (" ", []),
            ("2", [2]),
            ("3,1", [3, 1]),
            (" 1 , 0 ", [1, 0]),
            ("+1", [1]),
            ("1gpu2,2ampere", [1, 2]),
            ("-1", []),
            ("0,-1,2", [0]),
            ("0,9,2", [0]),
            ("0,9,9", []),
            ("0,all", [0]),
            ("none", []),
            ("0,1,0", []),
            ("00,1", [0, 1]),
            ("0,01,1", []),
            ("1,,2", [1]),
            ("٢", []),
            ("9" * 5000, []),
            ("0" * 5000 + "1", [1]),
            ("GPU-1d44", [3]),
            ("GPU-1c,GPU-0a", [2, 0]),
            ("GPU-0", []),
            ("GPU-0a,GPU-9,GPU-1c", [0]),
            ("GPU-0a,GPU-0a", []),
            ("GPU-0a,GPU-0a11", []),
            ("GPU-0a,1", [0]),
            ("1,GPU-0a", [1]),
            ("MIG-aa", []),
        ],
    )
    def test_the_setting_is_read_as_cuda_reads_it(self, setting, positions):
        assert visible(setting, FOUR) == tuple(Seen(position) for position in positions)

    @pytest.mark.parametrize(
        ("setting", "seen"),
        [
            (None, [Seen(0, 0)]),
            ("0", [Seen(0, 0)]),
            ("1,0", [Seen(0, 0)]),
            ("1", [Seen(1)]),
            ("2", []),
            ("MIG-ab", [Seen(0, 1)]),
            ("MIG-ab,MIG-aa", [Seen(0, 1)]),
            ("MIG-a", []),
            ("MIG-zz,MIG-aa", []),
            ("GPU-0a", [Seen(0, 0)]),
        ],
    )
    def test_a_process_sees_one_mig_instance_and_nothing_beside_it(self, setting, seen):
        assert visible(setting, MIG) == tuple(seen)

    @given(
        st.lists(
            st.sampled_from(
                ["0", "1", "2", "7", "-1", "+2", " 1", "1x", "x", "", "GPU-0", "GPU-0a", "GPU-1d44", "MIG-1"]
            ),
            max_size=5,
        ).map(",".join)
        | st.text(alphabet="0123 ,-+GPUMI-ax", max_size=12)
    )
    def test_it_is_read_as_torch_reads_it(self, torch_cuda, setting):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", setting)
            try:
                named = torch_cuda._parse_visible_devices()
            except ValueError:
                return  # torch raises on a sign without digits; here it ends the list
        if named and isinstance(named[0], str):
            if named[0].startswith("MIG-"):
                return  # torch leaves these to CUDA
            named = torch_cuda._transform_uuid_to_ordinals(named, [gpu.uuid for gpu in FOUR])
        in_range = next((at for at, ordinal in enumerate(named) if ordinal >= len(FOUR)), len(named))
        assert [seen.position for seen in visible(setting, FOUR)] == named[:in_range]

    @given(st.none() | st.text(), st.integers(0, 4))
    def test_every_device_is_one_of_the_machines_and_seen_once(self, setting, count):
        seen = visible(setting, FOUR[:count])
        assert len(set(seen)) == len(seen) <= count
        assert all(0 <= entry.position < count for entry in seen)

    @given(st.permutations(range(4)), st.integers(0, 4))
    def test_a_list_of_indices_or_of_uuids_is_its_own_meaning(self, order, count):
        chosen = order[:count]
        expected = tuple(Seen(position) for position in chosen)
        assert visible(",".join(map(str, chosen)), FOUR) == expected
        assert visible(",".join(FOUR[position].uuid for position in chosen), FOUR) == expected


class NvmlError(Exception):
    def __init__(self, value, message):
        super().__init__(message)
        self.value = value


class FakeNvml:
    """The few functions of NVML that are asked, over a list of GPUs as dicts. `lost`: no handle; `error`: no memory."""

    NVML_ERROR_NOT_SUPPORTED = 3

    def __init__(self, gpus, init=None, driver="580.95.05"):
        self.gpus, self.init, self.driver, self.open = gpus, init, driver, 0

    def nvmlInit(self):  # noqa: N802 - NVML's name
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802 - NVML's name
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802 - NVML's name
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self):  # noqa: N802 - NVML's name
        return self.driver

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802 - NVML's name
        if "lost" in self.gpus[index]:
            raise NvmlError(15, self.gpus[index]["lost"])
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu):  # noqa: N802 - NVML's name
        return gpu.get("name", "NVIDIA GeForce RTX 4090")

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802 - NVML's name
        return gpu["uuid"]

    def nvmlDeviceGetCudaComputeCapability(self, gpu):  # noqa: N802 - NVML's name
        return gpu.get("capability", (8, 9))

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802 - NVML's name
        if "error" in gpu:
            raise gpu["error"]
        return SimpleNamespace(total=gpu.get("total", 24 * GIB), free=gpu.get("free", 23 * GIB))

    def nvmlDeviceGetMigMode(self, gpu):  # noqa: N802 - NVML's name
        if "instances" not in gpu:
            raise NvmlError(3, "Not Supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):  # noqa: N802 - NVML's name
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, place):  # noqa: N802 - NVML's name
        if place >= len(gpu["instances"]):
            raise NvmlError(6, "Not Found")
        return gpu["instances"][place]


def told_by(nvml):
    """Return what a child process would print."""
    try:
        return json.loads(json.dumps(inventory(nvml)))
    except NvmlError as error:
        return {"fault": str(error)}


def found_by(nvml):
    return nvidia.read(told_by(nvml), RAM)


def gpus(count, **facts):
    return [{"uuid": f"GPU-{index}", **facts} for index in range(count)]


class TestNvml:
    def test_the_visible_gpus_come_in_the_order_of_torch(self):
        nvml = FakeNvml(gpus(3, total=24 * GIB, free=20 * GIB))
        answer = nvidia.seen(found_by(nvml), {"CUDA_VISIBLE_DEVICES": "2,0"})
        assert [(gpu.physical, gpu.uuid) for gpu in answer.accelerators] == [(2, "GPU-2"), (0, "GPU-0")]
        first = Host(answer.accelerators, memory=0).devices("cuda")[0]
        assert (first.id, first.memory, first.free, first.capability) == (0, 24 * GIB, 20 * GIB, (8, 9))
        assert answer.versions == (("driver", "580.95.05"),)

    def test_it_is_shut_down_again(self):
        nvml = FakeNvml(gpus(1))
        found_by(nvml)
        assert nvml.open == 0

    def test_a_lost_gpu_is_counted_and_has_a_fault(self):
        nvml = FakeNvml([*gpus(1), {"uuid": "GPU-x", "lost": "GPU is lost"}])
        found = nvidia.seen(found_by(nvml), {}).accelerators
        assert [(gpu.physical, gpu.fault) for gpu in found] == [(0, None), (1, "GPU is lost")]

    def test_a_gpu_that_does_not_answer_has_a_fault(self):
        nvml = FakeNvml([*gpus(1, error=NvmlError(999, "Unknown Error")), {"uuid": "GPU-b"}])
        found = nvidia.seen(found_by(nvml), {}).accelerators
        assert [gpu.fault for gpu in found] == ["Unknown Error", None]

    def test_a_gpu_without_memory_of_its_own_shares_the_machines(self):
        nvml = FakeNvml(gpus(1, name="NVIDIA GB10", error=NvmlError(3, "Not Supported")))
        (gb10,) = nvidia.seen(found_by(nvml), {}).accelerators
        assert (gb10.unified, gb10.memory, gb10.free) == (True, RAM.total, RAM.free)

    def test_a_mig_instance_has_its_own_memory_and_name(self):
        instances = [{"uuid": "MIG-a", "name": "MIG 1g", "total": 10 * GIB, "free": 9 * GIB}, {"uuid": "MIG-b"}]
        nvml = FakeNvml([{"uuid": "GPU-0", "instances": instances}, {"uuid": "GPU-1"}])
        (one,) = nvidia.seen(found_by(nvml), {}).accelerators
        assert (one.uuid, one.name, one.memory, one.physical) == ("MIG-a", "MIG 1g", 10 * GIB, 0)

    def test_the_order_of_unlike_gpus_needs_the_bus_order(self):
        unlike = found_by(FakeNvml([*gpus(1), {"uuid": "GPU-b", "name": "other"}]))
        assert not nvidia.order_is_known(unlike, {})
        assert not nvidia.order_is_known(unlike, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
        assert nvidia.order_is_known(unlike, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
        assert nvidia.order_is_known(found_by(FakeNvml(gpus(2))), {})

    def test_numbers_that_make_no_sense_are_no_exception(self):
        nvml = FakeNvml(gpus(1, total=10, free=20, capability=None, name=b"\xff\n"))
        (odd,) = nvidia.seen(found_by(nvml), {}).accelerators
        assert odd.free == odd.memory == 10
        nvml = FakeNvml(gpus(1, total="many"))
        (odd,) = nvidia.seen(found_by(nvml), {}).accelerators
        assert "invalid literal" in odd.fault
        (odd,) = nvidia.read({"gpus": [{"memory": math.inf}]}, RAM).gpus
        assert "make no sense" in odd.fault


TORCH = TorchBuild("2.13.0", frozenset({"cuda", "xpu"}))


def sources(*signs, nvml=None, torch=TORCH, told=None, plugins=(), ask_nvml=None):
    def ask_torch(types):
        assert told is not None, f"torch was asked for {types}"
        return {type_: told[type_] for type_ in types}

    if nvml is not None:
        ask_nvml = partial(told_by, nvml)
    return Sources(frozenset(signs), ask_nvml, torch, frozenset(plugins), ask_torch)


def card(**facts):
    return Accelerator("cuda", **{"memory": 24 * GIB, **facts})


class TestWhoIsAsked:
    def test_a_machine_without_signs_asks_nobody(self):
        assert accelerators(sources(), RAM, {}) == ProbeResult()

    def test_nvml_is_enough_for_nvidia(self):
        answer = accelerators(sources("nvidia", nvml=FakeNvml(gpus(2))), RAM, {})
        assert len(answer.accelerators) == 2
        assert answer.faults == ()

    def test_nvml_is_enough_without_torch(self):
        answer = accelerators(sources("nvidia", nvml=FakeNvml(gpus(2)), torch=None), RAM, {})
        assert (len(answer.accelerators), answer.faults) == (2, ())

    def test_no_visible_device_is_an_answer(self):
        answer = accelerators(sources("nvidia", nvml=FakeNvml(gpus(2))), RAM, {"CUDA_VISIBLE_DEVICES": ""})
        assert (answer.accelerators, answer.faults) == ((), ())

    def test_a_torch_without_cuda_makes_the_gpus_unusable(self):
        cpu = TorchBuild("2.13.0+cpu", frozenset())
        answer = accelerators(sources("nvidia", nvml=FakeNvml(gpus(1)), torch=cpu), RAM, {})
        assert len(answer.accelerators) == 1
        assert answer.faults == (("cuda", "torch 2.13.0+cpu is built without CUDA"),)

    def test_where_nvml_fails_torch_is_asked(self):
        broken = FakeNvml([], init=NvmlError(18, "Driver/library version mismatch"))
        told = {"cuda": ProbeResult((card(),))}
        answer = accelerators(sources("nvidia", nvml=broken, told=told), RAM, {})
        assert answer == ProbeResult((card(),), faults=(("nvml", "Driver/library version mismatch"),))

    def test_a_driver_that_hangs_is_not_asked_again(self):
        def hang():
            raise ChildTimeout("no answer within 0.05 seconds")

        answer = accelerators(sources("nvidia", ask_nvml=hang), RAM, {})
        assert dict(answer.faults) == dict.fromkeys(("cuda", "nvml"), "no answer within 0.05 seconds")

    @pytest.mark.parametrize("told", [{}, {"gpus": 3}, {"gpus": [3]}, {"gpus": [{"instances": 3}]}, {"fault": None}])
    def test_an_answer_of_nvml_that_makes_no_sense_is_a_fault(self, told):
        answer = accelerators(sources("nvidia", ask_nvml=lambda: told, told={"cuda": ProbeResult()}), RAM, {})
        assert answer.accelerators == ()
        assert [source for source, _ in answer.faults] == ["nvml"]

    def test_more_gpus_than_torch_counts_are_left_out_and_told(self):
        answer = accelerators(sources("nvidia", nvml=FakeNvml(gpus(200))), RAM, {})
        assert len(Host(answer.accelerators, memory=0).devices("cuda")) == 128
        assert answer.faults == (("nvml", "it counts 200 devices, and torch the first 128: these are kept"),)

    def test_devices_that_no_host_can_have_are_a_fault(self):
        told = {"mps": ProbeResult((Accelerator("mps", memory=1), Accelerator("mps", memory=1)))}
        answer = accelerators(sources("apple", told=told), RAM, {})
        assert answer.accelerators == ()
        assert "make no sense" in dict(answer.faults)["mps"]

    def test_torch_says_the_order_of_unlike_gpus(self):
        nvml = FakeNvml([{"uuid": "GPU-slow", "name": "slow"}, {"uuid": "GPU-fast", "name": "fast"}])
        told = {"cuda": ProbeResult((card(uuid="GPU-fast"), card(uuid="GPU-slow")))}
        answer = accelerators(sources("nvidia", nvml=nvml, told=told), RAM, {})
        assert [(gpu.name, gpu.physical, gpu.free) for gpu in answer.accelerators] == [
            ("fast", 1, 23 * GIB),
            ("slow", 0, 23 * GIB),
        ]

    @pytest.mark.parametrize(
        "told",
        [
            ProbeResult(faults=(("cuda", "no"),)),
            ProbeResult((card(uuid="GPU-fast"), card())),
            ProbeResult((card(uuid="GPU-fast"), card(uuid="GPU-unknown"))),
        ],
    )
    def test_where_torch_cannot_say_the_order_is_the_bus_order(self, told):
        nvml = FakeNvml([{"uuid": "GPU-slow", "name": "slow"}, {"uuid": "GPU-fast", "name": "fast"}])
        answer = accelerators(sources("nvidia", nvml=nvml, told={"cuda": told}), RAM, {})
        assert [gpu.name for gpu in answer.accelerators] == ["slow", "fast"]

    @pytest.mark.parametrize(
        ("sign", "torch", "fault"),
        [
            ("nvidia", None, ("cuda", "torch is not installed, and nothing else can be asked")),
            ("apple", None, ("mps", "torch is not installed, and nothing else can be asked")),
            ("intel", TorchBuild("2.13.0+cpu", frozenset()), ("xpu", "torch 2.13.0+cpu is built without XPU")),
            ("ascend", TorchBuild("2.13.0", frozenset()), ("npu", "torch-npu is not installed")),
        ],
    )
    def test_what_torch_cannot_know_is_a_fault_and_not_asked(self, sign, torch, fault):
        assert accelerators(sources(sign, torch=torch), RAM, {}) == ProbeResult(faults=(fault,))

    def test_a_rocm_build_of_torch_knows_cuda(self):
        told = {"cuda": ProbeResult((card(),))}
        answer = accelerators(sources("amd", torch=TorchBuild("2.13.0", frozenset({"hip"})), told=told), RAM, {})
        assert len(answer.accelerators) == 1

    def test_a_mac_has_no_more_free_on_mps_than_in_all(self):
        told = {"mps": ProbeResult((Accelerator("mps", memory=60 * GIB),))}
        (mps,) = accelerators(sources("apple", told=told), RAM, {}).accelerators
        assert (mps.memory, mps.free) == (60 * GIB, 50 * GIB)


class TestTorchsAnswers:
    def module(self, **changes):
        facts = {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_device_name": lambda index: f"card {index}",
            "get_device_properties": lambda index: SimpleNamespace(total_memory=8, uuid=f"u{index}", is_integrated=0),
            "get_device_capability": lambda index: (8, index),
            "mem_get_info": lambda index: (5, 8),
        }
        return SimpleNamespace(**{**facts, **changes})

    def test_each_device_gives_its_facts(self):
        told = answers(SimpleNamespace(cuda=self.module()), ["cuda"])
        assert json.loads(json.dumps(told))["cuda"]["devices"][1] == {
            "name": "card 1",
            "memory": 8,
            "free": 5,
            "unified": False,
            "capability": [8, 1],
            "uuid": "GPU-u1",
        }

    def test_one_broken_device_does_not_hide_the_others(self):
        def mem_get_info(index):
            if index == 0:
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            return 5, 8

        told = answers(SimpleNamespace(cuda=self.module(mem_get_info=mem_get_info)), ["cuda"])["cuda"]["devices"]
        assert [entry.get("fault") for entry in told] == ["CUDA error: uncorrectable ECC error encountered", None]

    def test_an_intel_driver_that_hides_what_is_free_is_no_fault(self):
        def mem_get_info(index):
            raise RuntimeError("not supported")

        told = answers(SimpleNamespace(xpu=self.module(mem_get_info=mem_get_info)), ["xpu"])["xpu"]["devices"]
        assert [accelerator("xpu", entry).free for entry in told] == [8, 8]

    def test_a_driver_that_is_not_available_says_why(self):
        def init():
            raise RuntimeError("Found no NVIDIA driver on your system")

        module = self.module(is_available=lambda: False, init=init)
        assert answers(SimpleNamespace(cuda=module), ["cuda"]) == {
            "cuda": {"fault": "Found no NVIDIA driver on your system"}
        }

    def test_metal_gives_its_working_set(self):
        mps = SimpleNamespace(recommended_max_memory=lambda: 27 * GIB)
        backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True))
        told = answers(SimpleNamespace(mps=mps, backends=backends), ["mps"])
        assert told == {"mps": {"devices": [{"memory": 27 * GIB, "unified": True}]}}

    def test_a_type_that_torch_does_not_have_is_a_fault(self):
        assert "fault" in answers(SimpleNamespace(), ["npu"])["npu"]


class TestTheChild:
    def command(self, script):
        return [sys.executable, "-c", textwrap.dedent(script)]

    def test_what_it_prints_is_read_past_what_a_driver_prints(self):
        script = f"""
            import json, sys
            print("driver says hello")
            print({MARK!r} + json.dumps({{t: {{"devices": [{{"memory": 8, "free": 5}}]}} for t in sys.argv[1:]}}))
            print("bye")
        """
        told = probe_in_child(["cuda", "xpu"], 20, self.command(script))
        assert told["xpu"] == ProbeResult((Accelerator("xpu", memory=8, free=5),))

    def test_a_driver_that_hangs_is_a_fault_after_the_timeout(self):
        start = time.monotonic()
        told = probe_in_child(["cuda"], 0.3, self.command("import time; time.sleep(60)"))
        assert told == {"cuda": ProbeResult(faults=(("cuda", "no answer within 0.3 seconds"),))}
        assert time.monotonic() - start < 10

    def test_a_driver_that_crashes_is_a_fault(self):
        told = probe_in_child(["cuda"], 20, self.command("import os; os._exit(11)"))
        assert told["cuda"].faults == (("cuda", "its process ended with status 11"),)

    def test_an_exception_is_a_fault_with_its_last_line(self):
        told = probe_in_child(["cuda"], 20, self.command("raise ImportError('libcudart.so.13: cannot open')"))
        assert told["cuda"].faults == (("cuda", "ImportError: libcudart.so.13: cannot open"),)

    @pytest.mark.parametrize("said", ["[]", "{}", '{"cuda": 1}', '{"cuda": {"devices": 1}}', '{"cuda": {}}', "{"])
    def test_an_answer_that_makes_no_sense_is_a_fault(self, said):
        told = probe_in_child(["cuda"], 20, self.command(f"print({MARK!r} + {said!r})"))
        assert told["cuda"].accelerators == ()
        assert told["cuda"].faults

    def test_an_interpreter_that_cannot_be_started_is_a_fault(self, tmp_path):
        told = probe_in_child(["cuda"], 20, [str(tmp_path / "no-python")])
        assert "cannot start a process" in told["cuda"].faults[0][1]

    def test_a_frozen_application_is_not_started_again(self, monkeypatch):
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        assert "no Python interpreter" in probe_in_child(["cuda"], 20)["cuda"].faults[0][1]

    def test_the_real_torch_answers(self):
        pytest.importorskip("torch")
        (told,) = probe_in_child(["cuda"], 60).values()
        # A machine without a GPU says why, one with a GPU names it.
        assert told.faults or told.accelerators
        for source, why in told.faults:
            assert source == "cuda"
            assert "Traceback" not in why


class TestSigns:
    def test_a_machine_without_device_files_shows_none(self, tmp_path):
        assert vendors("linux", "x86_64", tmp_path) == frozenset()

    @pytest.mark.parametrize(
        ("file", "content", "found"),
        [
            ("dev/nvidia0", "", {"nvidia"}),
            ("proc/driver/nvidia/version", "", {"nvidia"}),
            ("dev/dxg", "", {"nvidia", "intel"}),
            ("dev/kfd", "", {"amd"}),
            ("sys/class/drm/renderD128/device/vendor", "0x8086\n", {"intel"}),
            ("sys/class/drm/renderD128/device/vendor", "0x1002\n", set()),
            ("dev/davinci3", "", {"ascend"}),
        ],
    )
    def test_a_file_of_a_driver_is_a_sign(self, tmp_path, file, content, found):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(content)
        assert vendors("linux", "x86_64", tmp_path) == found

    def test_windows_shows_its_drivers_libraries(self, tmp_path):
        (tmp_path / "nvcuda.dll").touch()
        assert vendors("windows", "x86_64", tmp_path) == {"nvidia"}

    def test_only_apples_own_processors_have_metal_for_torch(self):
        assert vendors("macos", "arm64") == {"apple"}
        assert vendors("macos", "x86_64") == vendors("other", "x86_64") == frozenset()


class TestSystem:
    def group(self, root, path, **files):
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(f"{content}\n")

    def member(self, root, text):
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(text)

    def test_a_container_has_the_memory_of_its_control_group(self, tmp_path):
        self.member(tmp_path, "0::/\n")
        self.group(tmp_path, ".", memory__max=8000, memory__current=3000, memory__stat="anon 1000\ninactive_file 2000")
        assert control_group_limit(tmp_path) == Amount(8000, 7000)

    def test_the_tightest_of_the_parents_counts(self, tmp_path):
        self.member(tmp_path, "0::/a/b\n")
        self.group(tmp_path, "a/b", memory__max="max", memory__current=100, memory__stat="")
        self.group(tmp_path, "a", memory__max=5000, memory__current=4000, memory__stat="")
        self.group(tmp_path, ".", memory__max=9000, memory__current=8500, memory__stat="")
        assert control_group_limit(tmp_path) == Amount(5000, 500)

    def test_what_a_group_is_slowed_down_above_is_a_limit_too(self, tmp_path):
        self.member(tmp_path, "0::/\n")
        self.group(tmp_path, ".", memory__max="max", memory__high=8000, memory__current=3000, memory__stat="")
        assert control_group_limit(tmp_path) == Amount(8000, 5000)
        self.group(tmp_path, ".", memory__max=6000)
        assert control_group_limit(tmp_path) == Amount(6000, 3000)

    @pytest.mark.parametrize(
        ("files", "free"),
        [({}, 8000), ({"memory__current": 3000}, 5000), ({"memory__stat": "inactive_file 1000"}, 8000)],
    )
    def test_a_limit_counts_where_what_is_used_cannot_be_read(self, tmp_path, files, free):
        self.member(tmp_path, "0::/\n")
        self.group(tmp_path, ".", memory__max=8000, **files)
        assert control_group_limit(tmp_path) == Amount(8000, free)

    def test_version_1_is_read_where_it_owns_memory(self, tmp_path):
        self.member(tmp_path, "9:name=systemd:/\n4:memory:/docker/x\n0::/\n")
        limits = {
            "memory__limit_in_bytes": 4000,
            "memory__usage_in_bytes": 3000,
            "memory__stat": "total_inactive_file 500",
        }
        self.group(tmp_path, "memory", **limits)
        assert control_group_limit(tmp_path) == Amount(4000, 1500)

    def test_version_1_without_a_limit_is_none(self, tmp_path):
        self.member(tmp_path, "4:memory:/\n")
        self.group(tmp_path, "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=3)
        assert control_group_limit(tmp_path) is None

    @given(text=st.text())
    def test_no_text_in_the_membership_makes_it_raise(self, tmp_path_factory, text):
        root = tmp_path_factory.mktemp("root")
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_bytes(text.encode(errors="surrogatepass"))
        assert control_group_limit(root) is None

    def test_a_system_without_control_groups_has_no_limit(self, tmp_path):
        assert control_group_limit(tmp_path) is None

    def test_ram_is_at_most_the_control_groups(self, tmp_path):
        self.member(tmp_path, "0::/\n")
        self.group(tmp_path, ".", memory__max=8000, memory__current=3000, memory__stat="")
        assert ram(tmp_path) == Amount(8000, 5000)

    def test_the_disk_of_a_missing_folder_is_its_parents(self, tmp_path):
        assert disk(tmp_path / "a" / "b").total == disk(tmp_path).total > 0

    def test_torchs_toolkits_are_read_without_importing_it(self):
        text = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
        assert _constants(text) == {"__version__": "2.13.0+cu130", "cuda": "13.0", "hip": None}

    def test_the_installed_torch_is_recognised(self):
        torch = pytest.importorskip("torch")
        build = torch_build()
        assert build.version == str(torch.__version__)
        assert ("cuda" in build.toolkits) == (torch.version.cuda is not None)

    def test_a_stub_in_the_place_of_torch_is_not_taken_for_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.version", SimpleNamespace())
        assert torch_build() is None or torch_build().version

    def test_a_mac_tells_its_version_and_others_have_none(self, monkeypatch):
        monkeypatch.setattr("platform.mac_ver", lambda: ("", ("", "", ""), ""))
        assert "macos" not in versions()
        monkeypatch.setattr("platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
        assert versions()["macos"] == "15.5"


class TestGuards:
    def test_the_thread_sees_the_callers_context(self):
        from contextvars import ContextVar

        variable = ContextVar("variable", default="outside")
        variable.set("inside")
        assert with_timeout(5, variable.get) == "inside"

    def test_what_a_source_raises_is_raised(self):
        with pytest.raises(KeyError):
            with_timeout(5, lambda: {}["x"])

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_what_would_end_the_program_is_an_exception(self, kind):
        def ask():
            raise kind("no licence")

        with pytest.raises(RuntimeError, match="no licence"):
            with_timeout(5, ask)

    def test_a_reason_is_one_line_that_can_be_written(self):
        assert reason(ValueError("a\n  b\ud800")) == "a b?"
        assert reason(ValueError()) == "ValueError"
        assert len(reason(ValueError("x" * 10_000))) == 500


class TestThisMachine:
    def test_the_probe_describes_it(self, tmp_path):
        host = Host.probe(tmp_path / "offload")
        assert 0 < host.free <= host.memory
        assert 0 < host.disk_free <= host.disk
        assert host.version("python") == ".".join(map(str, sys.version_info[:3]))
        assert Host.parse(host.to_toml()) == host

    def test_a_disk_path_that_is_no_path_is_refused(self):
        with pytest.raises(HostError, match="`disk_path` is a path"):
            probe(3)

    def test_a_current_folder_that_is_gone_is_a_fault(self, tmp_path, monkeypatch):
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        try:
            gone.rmdir()
        except OSError:
            pytest.skip("this system keeps a current folder")
        host = probe()
        assert host.fault("disk")
        assert host.disk == 0

    def test_a_fresh_process_probes_without_torch(self):
        script = """
            import os, sys, json
            before = dict(os.environ)
            from devpolicy._core.host import Host
            host = Host.probe()
            print(json.dumps({
                "loaded": [name for name in ("torch", "numpy", "transformers") if name in sys.modules],
                "environ": dict(os.environ) == before,
                "host": host.to_toml(),
            }))
        """
        # PYTHONSAFEPATH: as with an installed command, the current folder is no place for modules.
        environ = {**os.environ, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
        run = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300, check=False)
        assert run.returncode == 0, run.stderr
        told = json.loads(run.stdout)
        assert told["loaded"] == []
        assert told["environ"]
        assert Host.parse(told["host"]).memory > 0

    def test_cuda_is_as_uninitialised_after_a_probe_as_before(self):
        torch = pytest.importorskip("torch")
        before = torch.cuda.is_initialized()
        Host.probe()
        assert torch.cuda.is_initialized() == before

    @pytest.mark.skipif(bool(vendors(*system_and_arch())), reason="needs a machine without an accelerator")
    def test_no_driver_is_asked_without_a_sign_of_an_accelerator(self, monkeypatch):
        def asked(*arguments, **options):
            raise AssertionError("a child process was started")

        monkeypatch.setattr(subprocess, "Popen", asked)
        host = Host.probe()
        assert (host.accelerators, host.faults) == ((), ())
