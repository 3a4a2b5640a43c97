"""Files from strangers: what is no regular file, may not be read, is too large, or is no policy at all."""

import codecs
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from devpolicy import Host, Policy, PolicyError
from devpolicy._core.errors import MOST_KEPT, WIDEST
from devpolicy._core.files import kind_of, read_file
from devpolicy._core.language.components import MOST_COMPONENTS
from devpolicy._core.language.extending import MOST_TEXTS
from devpolicy._core.placement.saved import PlanError
from devpolicy._core.toml.document import LONGEST_TEXT, MOST_VALUES
from devpolicy.errors import DevPolicyError, HostError
from tests.cli.harness import invoke

NOBODY = 65534
PASSES = """
prefer = ["cuda", "cpu"]
[[test]]
name = "fits"
host = "1x24gb"
model = "llama-3.2-1b"
expect = "cuda:0"
"""

needs_links = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@contextmanager
def without_privileges():
    """Run as a user to whom permissions apply: root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    # What is imported late is not readable to that user where Python is installed in root's home.
    for name in ("check", "plan", "show", "test"):
        import_module(f"devpolicy._core.cli.commands.{name}")
    import_module("devpolicy._core.review.parallel_map")
    codecs.lookup("utf-8-sig")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared():
    """A folder that every user may enter."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has other permissions")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def at_once(ask):
    """Return what a call raises. It is asked in a thread, so that one that waits fails and does not hang."""
    raised = []

    def work():
        try:
            ask()
        except DevPolicyError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits"
    return raised[0]


class TestSpecialFiles:
    @pytest.fixture(params=["pipe", "/dev/zero", "/dev/tty", "link to /dev/zero"])
    def special(self, request, tmp_path):
        if request.param == "pipe":
            os.mkfifo(tmp_path / "special.toml")
            return tmp_path / "special.toml"
        device = Path(request.param.removeprefix("link to "))
        if not device.exists():
            pytest.skip("this system has no such device")
        if request.param.startswith("link"):
            (tmp_path / "special.toml").symlink_to(device)
            return tmp_path / "special.toml"
        return device

    @needs_links
    def test_a_policy_that_is_no_regular_file_is_refused_at_once(self, special):
        error = at_once(lambda: Policy.load(special))
        assert error.code == "DP109"
        assert "and not a regular file" in str(error)

    @needs_links
    def test_a_host_that_is_no_regular_file_is_refused_at_once(self, special):
        error = at_once(lambda: Host.load(special))
        assert isinstance(error, HostError)
        assert error.code == "DP109"

    @needs_links
    def test_what_a_policy_extends_is_opened_no_other_way(self, special, tmp_path):
        (tmp_path / "p.toml").write_text(f"extends = '{special}'\nprefer = \"cuda\"\n")
        error = at_once(lambda: Policy.load(tmp_path / "p.toml"))
        assert error.code == "DP109"
        assert "`extends`" in error.diagnostics[0].notes[0]

    @needs_links
    def test_a_lock_that_is_no_regular_file_is_refused_at_once(self, special):
        from devpolicy._core.cli.lock import read

        error = at_once(lambda: read(str(special)))
        assert isinstance(error, PlanError)
        assert error.code == "DP109"

    @needs_links
    def test_a_folder_of_tests_names_the_pipe_in_it(self, tmp_path):
        (tmp_path / "a.toml").write_text(PASSES)
        os.mkfifo(tmp_path / "b.toml")
        result = invoke("test", str(tmp_path))
        assert result.status == 2
        assert "b.toml" in result.stderr

    def test_a_file_that_states_no_size_is_read(self):
        if not Path("/proc/self/status").exists():
            pytest.skip("this system has no /proc")
        assert b"Pid:" in read_file("/proc/self/status", PolicyError, most=1 << 20)


class TestPermissions:
    def test_a_folder_of_tests_names_the_part_that_it_could_not_read(self, shared):
        (shared / "a.toml").write_text(PASSES)
        (shared / "sub").mkdir()
        (shared / "sub" / "b.toml").write_text(PASSES.replace("cuda:0", "cuda:1"))
        (shared / "sub").chmod(0)
        with without_privileges():
            result = invoke("test", str(shared))
        assert result.status == 2
        assert f"cannot read `{shared / 'sub'}`: permission denied" in result.stderr

    def test_a_folder_of_tests_names_the_file_that_it_could_not_read(self, shared):
        (shared / "a.toml").write_text(PASSES)
        (shared / "b.toml").write_text(PASSES)
        (shared / "b.toml").chmod(0)
        with without_privileges():
            result = invoke("test", str(shared))
        assert result.status == 2
        assert f"cannot read `{shared / 'b.toml'}`: permission denied" in result.stderr

    def test_a_folder_that_is_never_looked_into_may_be_closed(self, shared):
        (shared / "a.toml").write_text(PASSES)
        (shared / ".venv").mkdir()
        (shared / ".venv").chmod(0)
        with without_privileges():
            assert invoke("test", str(shared)).status == 0

    @pytest.mark.parametrize("command", ["check", "test", "show", "plan"])
    def test_a_policy_in_a_closed_folder_is_not_one_that_is_missing(self, shared, command):
        (shared / "x").mkdir()
        (shared / "x" / "pol.toml").write_text(PASSES)
        (shared / "x").chmod(0)
        more = ["--model", "llama-3.2-1b", "--host", "1x24gb"] if command == "plan" else []
        with without_privileges():
            result = invoke(command, str(shared / "x" / "pol.toml"), *more)
        assert result.status == 2
        told = result.stdout + result.stderr
        assert "permission denied" in told
        assert "there is no policy" not in told
        assert "this is a bug" not in told

    def test_a_host_in_a_closed_folder_is_told_so(self, shared):
        (shared / "x").mkdir()
        (shared / "x").chmod(0)
        with without_privileges(), pytest.raises(HostError, match="permission denied"):
            Host.load(shared / "x" / "h.toml")

    @pytest.mark.parametrize("word", ["host", "model"])
    def test_what_a_test_names_in_a_closed_folder_is_told_so(self, shared, word):
        (shared / "x").mkdir()
        (shared / "x").chmod(0)
        names = {"host": "1x24gb", "model": "llama-3.2-1b"}
        text = PASSES.replace(f'"{names[word]}"', '"x/y.toml"')
        (shared / "a.toml").write_text(text)
        with without_privileges():
            result = invoke("test", str(shared))
        assert result.status == 2
        assert "permission denied" in result.stderr

    def test_a_closed_folder_is_neither_a_file_nor_missing(self, shared):
        (shared / "x").mkdir()
        (shared / "x").chmod(0)
        with without_privileges(), pytest.raises(DevPolicyError, match="permission denied"):
            kind_of(shared / "x" / "y", DevPolicyError)


@pytest.mark.parametrize("path", ["a\0b", "x" * 10_000, "\ud800", "no/such/file", ""])
def test_text_that_can_be_no_path_names_nothing(path):
    assert kind_of(path, DevPolicyError) is None


class TestFilesThatAreNoPolicy:
    SECRET = "hunter2-of-this-machine"

    def told(self, folder, text):
        (folder / "other").write_text(text)
        (folder / "p.toml").write_text('extends = "other"\nprefer = "cuda"\n')
        with pytest.raises(PolicyError) as refused:
            Policy.load(folder / "p.toml")
        return str(refused.value)

    @pytest.mark.parametrize(
        "text",
        [
            "root:{}:19000:0:99999:7:::\n",
            "{}\n",
            '[registry]\ntoken = "{}"\n',
            'token = "{}"\n',
            'password = """{}',
            "a = '{}'\na = '{}'\n",
            "key = {}\n",
        ],
    )
    def test_what_a_policy_extends_is_not_shown_where_it_is_none(self, tmp_path, text):
        told = self.told(tmp_path, text.replace("{}", self.SECRET))
        assert self.SECRET not in told
        assert str(tmp_path / "other") in told

    def test_the_place_is_told(self, tmp_path):
        assert f"{tmp_path / 'other'}:2:" in self.told(tmp_path, f"a = 1\n{self.SECRET}\n")

    def test_a_policy_that_is_extended_is_shown(self, tmp_path):
        assert 'prefer = "gpu"' in self.told(tmp_path, 'prefer = "gpu"\n')

    def test_a_policy_that_is_extended_may_be_empty(self, tmp_path):
        (tmp_path / "other").write_text("# nothing yet\n")
        (tmp_path / "p.toml").write_text('extends = "other"\nprefer = "cuda"\n')
        assert Policy.load(tmp_path / "p.toml").prefer

    @pytest.mark.parametrize("word", ["host", "model"])
    def test_what_a_test_names_is_not_shown(self, tmp_path, word):
        (tmp_path / "other.toml").write_text(f"{self.SECRET}\n")
        names = {"host": "1x24gb", "model": "llama-3.2-1b"}
        (tmp_path / "a.toml").write_text(PASSES.replace(f'"{names[word]}"', '"other.toml"'))
        result = invoke("test", str(tmp_path))
        assert result.status == 2
        assert "other.toml:1:" in result.stderr
        assert self.SECRET not in result.stderr

    def test_the_model_of_a_component_is_not_shown(self, tmp_path):
        (tmp_path / "other.toml").write_text(f"{self.SECRET}\n")
        (tmp_path / "p.toml").write_text('prefer = "cuda"\n[component.a]\nmodel = "other.toml"\n')
        result = invoke("plan", str(tmp_path / "p.toml"), "--host", "1x24gb")
        assert result.status == 2
        assert self.SECRET not in result.stderr

    def test_the_policy_of_a_file_of_tests_is_not_shown_without(self, tmp_path):
        (tmp_path / "other").write_text(f"{self.SECRET}\n")
        body = PASSES.replace('prefer = ["cuda", "cpu"]', 'policy = "other"')
        (tmp_path / "a.test.toml").write_text(body)
        result = invoke("test", str(tmp_path))
        assert result.status == 2
        assert self.SECRET not in result.stderr


class TestTooMuch:
    def one_line(self, count):
        return "prefer=[" + ",".join(f'{{device="cuda",count={10**6 + i}}}' for i in range(count)) + "]\n"

    def test_a_finding_keeps_a_part_of_a_long_line(self):
        with pytest.raises(PolicyError) as refused:
            Policy.parse(self.one_line(3000))
        assert all(len(one.place.text) <= WIDEST + 2 for one in refused.value.diagnostics if one.place)

    def test_an_error_holds_a_bounded_number_of_findings(self):
        with pytest.raises(PolicyError) as refused:
            Policy.parse(self.one_line(3000))
        findings = refused.value.diagnostics
        assert len(findings) == MOST_KEPT
        assert findings[-1].message == f"and {3000 - MOST_KEPT + 1} more findings: an error holds {MOST_KEPT}"

    @pytest.mark.parametrize(
        "text",
        [
            '[[rule]]\nmatch="a"\noffload="cpu"\n' * 100_000,
            "[offload]\n" + "".join(f'a{i} = "cpu"\n' for i in range(100_000)),
            "".join(f"k{i} = 1\n" for i in range(200_000)),
        ],
        ids=["rules", "entries", "unknown keys"],
    )
    def test_a_text_of_too_many_keys_is_refused_before_it_is_read(self, text):
        for read, error in ((Policy.parse, PolicyError), (Host.parse, HostError)):
            with pytest.raises(error, match=f"has more than {MOST_VALUES} keys") as refused:
                read(text)
            assert len(refused.value.diagnostics) == 1

    @pytest.mark.parametrize("text", ['a = "{}"', '[[rule]]\nreason = "{}"', '"{}" = 1', 'prefer = ["{}"]'])
    def test_a_text_that_is_too_long_is_refused_at_its_place(self, text):
        for read, error in ((Policy.parse, PolicyError), (Host.parse, HostError)):
            with pytest.raises(error, match=f"more than {LONGEST_TEXT} characters") as refused:
                read(text.replace("{}", "x" * (LONGEST_TEXT + 1)))
            assert len(str(refused.value)) < 1000

    def test_a_policy_has_a_bounded_number_of_components(self):
        entries = "".join(f"[component.c{i}]\nneeds = 1\n" for i in range(MOST_COMPONENTS + 1))
        with pytest.raises(PolicyError, match=f"and a policy has {MOST_COMPONENTS} at most") as refused:
            Policy.parse(f'prefer = "cuda"\n{entries}')
        assert len(refused.value.diagnostics) == 1

    def test_policies_that_are_too_much_together_are_refused(self, tmp_path):
        half = "prefer = 'cuda'\n[offload]\n" + "".join(f'a{i} = "cpu"\n' for i in range(MOST_VALUES // 2))
        for name in ("a", "b"):
            (tmp_path / name).write_text(half)
        (tmp_path / "p.toml").write_text('extends = ["a", "b"]\n')
        with pytest.raises(PolicyError, match=f"together have more than {MOST_VALUES}"):
            Policy.load(tmp_path / "p.toml")

    def test_a_policy_builds_on_a_bounded_number_of_others(self, tmp_path):
        names = [f"b{i}" for i in range(MOST_TEXTS + 1)]
        for name in names:
            (tmp_path / name).write_text("split = 'never'\n")
        (tmp_path / "p.toml").write_text(f'extends = {names}\nprefer = "cuda"\n')
        with pytest.raises(PolicyError, match=f"more than {MOST_TEXTS} policies"):
            Policy.load(tmp_path / "p.toml")
