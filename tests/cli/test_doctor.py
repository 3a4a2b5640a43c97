"""`devpolicy doctor` with real processes: libraries that hang, crash and lie, and none of them at all."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tests.cli.harness import invoke, shell

import devpolicy
from devpolicy import Host
from devpolicy._core.cli.commands.doctor import to_dict, view
from devpolicy._core.cli.output import plain
from devpolicy._core.doctor import Report, examine
from devpolicy._core.doctor.findings import diagnose
from devpolicy._core.doctor.library_report import LIBRARIES, read

HOST = Host.load("1x24gb")
CUDA = {"cuda": [{"name": "NVIDIA GeForce RTX 4090", "memory": 24564 << 20}]}
ANSWERS = {
    "nvml": {"devices": CUDA},
    "psutil": {"ram": HOST.memory},
    "torch": {"devices": CUDA, "built_for": ["cuda"], "choice": "cuda"},
    "accelerate": {"devices": CUDA, "ram": HOST.free, "amounts": "free", "choice": "cuda"},
    "transformers": {"choice": "cuda:0"},
    "sentence-transformers": {"choice": "cuda"},
    "haystack": {"choice": "cuda:0"},
    "spacy": {"choice": "cpu", "why": "Cannot use GPU, CuPy is not installed"},
}


def report_of(answers=ANSWERS, variables=()):
    told = tuple(read(library, "1.0", answer) for library, answer in answers.items())
    findings = diagnose(HOST, {one.library: one for one in told}, dict(variables))
    return Report(HOST, told, tuple(variables), tuple(findings))


def fake(folder, module, source, version="9.9"):
    """Put a library of another's name into a folder, as if it were installed there."""
    distribution = LIBRARIES[module]
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    if module == "spacy":
        # spaCy is asked together with thinc, which may not be installed, and which takes seconds to import torch.
        (folder / "thinc").mkdir()
        (folder / "thinc" / "__init__.py").touch()
        (folder / "thinc" / "api.py").touch()


def doctor(folder, *arguments):
    """Run the command where the modules of a folder come first, and return what it tells of each library."""
    path = f"{folder}:{Path(devpolicy.__file__).parents[1]}" if sys.platform != "win32" else str(folder)
    result = shell("doctor", "spacy", "psutil", "--format", "json", *arguments, PYTHONPATH=path)
    assert "Traceback" not in result.stderr, result.stderr
    told = json.loads(result.stdout)
    assert result.status == bool(told["findings"])
    return {one["library"]: one for one in told["libraries"]}, told["findings"]


@pytest.fixture(scope="module")
def told():
    """Return what all libraries say of this machine; asked once, since it takes their imports."""
    return json.loads(json.dumps(to_dict(examine(timeout=300))))


class TestThisMachine:
    def test_every_library_is_told_with_its_version(self, told):
        assert [one["library"] for one in told["libraries"]] == list(LIBRARIES)
        for one in told["libraries"]:
            try:
                assert one["version"] == metadata.version(LIBRARIES[one["library"]])
            except metadata.PackageNotFoundError:
                assert one["version"] is None

    def test_what_a_library_tells_is_what_it_tells_here(self, told):
        libraries = {one["library"]: one for one in told["libraries"]}
        if libraries["torch"]["version"] is None:
            pytest.skip("torch is not installed")
        import torch

        assert sum(one["type"] == "cuda" for one in libraries["torch"]["devices"]) == torch.cuda.device_count()
        assert ("cuda" in libraries["torch"]["built_for"]) == (torch.version.cuda is not None)

    def test_the_host_is_the_one_that_is_probed(self, told):
        assert told["host"]["memory"] == Host.probe().memory


class TestBrokenLibraries:
    """spaCy stands for each: it is asked with or without torch, and nothing else here needs it."""

    @pytest.mark.parametrize(
        ("source", "fault"),
        [
            ("import time; time.sleep(60)", "no answer within 3 seconds"),
            ("raise RuntimeError('two\\nlines.')", "two lines"),
            ("raise RuntimeError", "RuntimeError"),
            ("raise SystemExit('no licence')", "no licence"),
            ("import os; os._exit(7)", "its process ended with status 7"),
            ("import os, sys; print('the last word', file=sys.stderr, flush=True); os._exit(7)", "the last word"),
            ("print('devpolicy-probe:{', flush=True); import os; os._exit(0)", "its process ended with status 0"),
        ],
    )
    def test_one_that_fails_is_a_finding_and_the_others_are_asked(self, source, fault, tmp_path):
        fake(tmp_path, "spacy", source)
        libraries, findings = doctor(tmp_path, "--timeout", "3" if "sleep" in source else "60")
        assert libraries["spacy"]["version"] == "9.9"
        assert libraries["spacy"]["fault"] == fault
        if "sleep" not in source:
            assert libraries["psutil"]["fault"] is None
        assert f"`spacy` cannot be asked: {fault}" in [finding["message"] for finding in findings]

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
    def test_one_that_crashes_is_a_finding(self, tmp_path):
        fake(tmp_path, "spacy", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        libraries, findings = doctor(tmp_path)
        assert libraries["spacy"]["fault"] == "it crashed with SIGSEGV"
        assert any("faulthandler" in finding["help"] for finding in findings)

    def test_noise_and_warnings_do_no_harm(self, tmp_path):
        source = """
            import sys, warnings
            print("hello"); print("devpolicy-probe:not this one"); print("\\udce4", file=sys.stderr, end="")
            warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old.")
            def require_gpu(): raise ValueError("No GPU devices detected")
        """
        fake(tmp_path, "spacy", "\n".join(line.strip() for line in source.splitlines()))
        libraries, findings = doctor(tmp_path)
        assert libraries["spacy"]["fault"] is None
        assert libraries["spacy"]["choice"] == "cpu"
        assert libraries["spacy"]["why"] == "No GPU devices detected"
        assert libraries["spacy"]["remarks"] == ["CUDA initialization: The NVIDIA driver on your system is too old"]
        assert any(finding["message"].startswith("`spacy` warns: CUDA init") for finding in findings)


def test_a_folder_with_a_torch_of_its_own_is_not_asked(tmp_path, monkeypatch):
    (tmp_path / "psutil.py").write_text("raise RuntimeError('not the library')")
    monkeypatch.chdir(tmp_path)
    told = {one.library: one for one in examine(libraries=["psutil"]).libraries}
    assert told["psutil"].fault is None


@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_without_any_of_the_libraries_it_says_so(tmp_path):
    for name in ("click", "tomli"):
        folder = Path(sys.modules[name].__file__).parent
        # A compiled package has a module of its own beside it.
        for part in [folder, *folder.parent.glob("*__mypyc.*")]:
            if not (tmp_path / part.name).exists():
                (tmp_path / part.name).symlink_to(part)
    package = Path(devpolicy.__file__).parents[1]
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(package)!r}]; import devpolicy.__main__"
    if any((package / name).exists() for name in ("torch", "psutil")):
        pytest.skip("devpolicy is installed beside them")
    command = [sys.executable, "-I", "-S", "-c", start, "doctor", "--color", "never"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    # The kernel of Linux says how much memory there is, where psutil is not there to ask.
    assert done.returncode == (0 if sys.platform == "linux" else 1), done.stderr
    assert done.stdout.count("not installed") == len(LIBRARIES)
    told = "`psutil` cannot be asked: `psutil` is not installed, which reads the memory of this machine"
    assert (told in done.stdout) == (sys.platform != "linux")


class TestSimulatedHosts:
    """The same questions to the same libraries, about hosts that are not there."""

    def test_libraries_that_are_installed_tell_of_the_simulated_host(self):
        pytest.importorskip("torch")
        asked = ["psutil", "torch", *(name for name in ("accelerate", "haystack") if installed(name))]
        report = examine(Host.load("2x24gb"), libraries=asked, timeout=300)
        assert report.findings == ()
        assert {one.choice.partition(":")[0] for one in report.libraries if one.choice} == {"cuda"}
        assert {one.count("cuda") for one in report.libraries if one.devices is not None} == {2}
        assert report.libraries[0].ram == report.host.memory

    def test_a_broken_device_is_found_by_the_library_that_meets_it(self):
        pytest.importorskip("torch")
        report = examine(Host.load("faulty/ecc-on-query"), libraries=["torch"], timeout=300)
        assert [finding.message for finding in report.findings] == [
            "`cuda:2` does not work: CUDA error: uncorrectable ECC error encountered"
        ]
        (torch,) = report.libraries
        assert [bool(one.fault) for one in torch.devices] == [False, False, True, False]

    def test_the_variables_of_this_machine_are_not_simulated(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert examine(HOST, libraries=[]).variables == ()
        assert ("CUDA_VISIBLE_DEVICES", "1") in examine(libraries=[]).variables


def installed(library):
    try:
        return bool(metadata.version(LIBRARIES[library]))
    except metadata.PackageNotFoundError:
        return False


class TestView:
    def test_what_each_sees_stands_in_a_table_and_the_findings_below(self):
        shown = [plain(line) for line in view(report_of(variables=[("CUDA_VISIBLE_DEVICES", "0")]), 80)]
        assert shown == [
            "1x24gb                linux x86_64, cuda 24 GiB, 64.0 GiB of RAM",
            "CUDA_VISIBLE_DEVICES  0",
            "",
            "  library                version  accelerators  RAM            uses",
            "  nvml                   1.0      cuda 24 GiB   -              -",
            "  psutil                 1.0      -             64.0 GiB       -",
            "  torch                  1.0      cuda 24 GiB   -              cuda",
            "  accelerate             1.0      cuda 24 GiB   56.0 GiB free  cuda",
            "  transformers           1.0      -             -              cuda:0",
            "  sentence-transformers  1.0      -             -              cuda",
            "  haystack               1.0      -             -              cuda:0",
            "  spacy                  1.0      -             -              cpu",
            "",
            "warning[DP606]: spacy would use `cpu`, and torch `cuda`",
            "  = note: it says: Cannot use GPU, CuPy is not installed",
            "  = help: `pip install 'spacy[cuda12x]'`, the number that of the CUDA version",
            "",
            "1 finding",
        ]

    def test_where_all_agree_there_is_nothing_else_to_say(self):
        shown = [plain(line) for line in view(report_of({"psutil": ANSWERS["psutil"]}), 80)]
        assert shown[-2:] == ["", "all agree"]

    def test_the_page_shows_a_report_as_it_is(self):
        page = (Path(__file__).parents[2] / "docs" / "find-out-why.md").read_text(encoding="utf-8")
        assert "\n".join(plain(line) for line in view(report_of(), 80)) in page

    def test_machines_get_the_same(self):
        told = json.loads(json.dumps(to_dict(report_of())))
        assert list(told) == ["schema", "host", "variables", "model_cache", "libraries", "findings"]
        assert told["libraries"][2]["devices"] == [
            {"type": "cuda", "id": 0, "name": "NVIDIA GeForce RTX 4090", "memory": 24564 << 20, "fault": None}
        ]
        assert told["findings"][0]["code"] == "DP606"


@pytest.mark.parametrize(
    "arguments", [("spcay",), ("--timeout", "0"), ("--timeout", "soon"), ("--host", "no-such-host")]
)
def test_what_cannot_be_meant_is_refused(arguments):
    assert invoke("doctor", *arguments).status == 2
