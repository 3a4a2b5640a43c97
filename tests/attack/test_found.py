"""What attacks have found at the doors of commands, each by the kind of it."""

from __future__ import annotations

import ast
import json
import resource
import shlex
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from devpolicy import ModelTree, Policy
from devpolicy._core.abilities import registry, target_of
from devpolicy._core.cli.junit import junit
from devpolicy._core.cli.output_formats import form_named, in_shell, written
from devpolicy._core.fleet import reader
from devpolicy._core.fleet.values import MOST_NODES, Fleet
from devpolicy._core.language.loading import MOST_ADAPTERS
from devpolicy._core.model import writer as model_writer
from devpolicy._core.model.adapters import with_adapters
from devpolicy._core.text import json_text, visible_line
from devpolicy._core.toml.writer import quote
from devpolicy.errors import DevPolicyError, FleetError, PolicyError
from tests.attack import judge
from tests.attack import mutations as change
from tests.attack.__main__ import is_installed
from tests.attack.case import Case
from tests.attack.guard.sitecustomize import changed, is_outside

HF = target_of("hf")


class Point:
    """An entry point of a package, whose module does something as it is imported."""

    name, value, dist = "evil", "evil:target", None

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load


def _raises(broken: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise broken

    return load


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    def install(load: Callable[[], Any]) -> None:
        monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))
        monkeypatch.setattr(registry, "_loaded", [])
        monkeypatch.setattr(metadata, "entry_points", lambda group: [Point(load)])

    return install


@pytest.mark.parametrize("broken", [SystemExit(5), GeneratorExit(), BaseException("x"), MemoryError()], ids=repr)
def test_a_package_of_a_target_ends_nothing(broken: BaseException, package: Callable[..., None]) -> None:
    package(_raises(broken))
    with pytest.raises(DevPolicyError, match="the target `evil` of `evil:target` cannot be loaded"):
        registry.targets()


def test_who_stops_a_command_stops_it_in_a_package_too(package: Callable[..., None]) -> None:
    package(_raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        registry.targets()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 5},
        {"name": "\x1b[31mevil"},
        {"name": ""},
        {"abilities": None},
        {"about": 5},
        {"distribution": ""},
        {"forms": {"evil": 5}},
        {"forms": {"\n::error::x": print}},
        {"forms": None},
    ],
    ids=repr,
)
def test_a_target_is_looked_at_before_it_is_known(wrong: dict[str, Any]) -> None:
    with pytest.raises(registry.TargetError, match=f"a target's `{next(iter(wrong))}` is not what it must be"):
        registry.register(replace(HF, **{"name": "evil", **wrong}))


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError


def _nested(depth: int) -> Any:
    made: Any = {}
    for _ in range(depth):
        made = {"a": made}
    return made


@pytest.mark.parametrize(
    "form",
    [
        lambda *_: 1 / 0,
        lambda *_: {1, 2},
        lambda: 1,
        lambda *_: _nested(700),
        lambda *_: _raises(SystemExit(5))(),
        lambda *_: _raises(UnspeakableError())(),
    ],
    ids=["raises", "no JSON", "arguments", "nested", "exits", "unspeakable"],
)
def test_a_form_of_a_package_that_fails_is_told(form: Callable[..., Any], package: Callable[..., None]) -> None:
    package(lambda: replace(HF, name="evil", forms={"evil-form": form}))
    with pytest.raises(DevPolicyError, match="the target `evil` cannot write its form `evil-form`"):
        form_named("evil-form").of_plan(None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\x1b[2J", "a\n  ::error::x", "a ##[error]x", "a\rb", "\u202eb"], ids=ascii)
def test_a_form_is_shown_as_text_or_refused(text: str, package: Callable[..., None]) -> None:
    forms = {"as-text": lambda *_: text, "as-source": lambda *_: {text: [text]}}
    package(lambda: replace(HF, name="evil", forms=forms))
    plans: Any = {None: None}
    with pytest.raises(DevPolicyError, match="holds characters that are not seen, or a command of a CI log"):
        written(form_named("as-text"), plans, plans, as_json=False)
    source = written(form_named("as-source"), plans, plans, as_json=False)
    assert [visible_line(line) for line in source.split("\n")] == source.split("\n")
    assert ast.literal_eval(source) == {text: [text]}
    for name, form in forms.items():
        assert json.loads(written(form_named(name), plans, plans, as_json=True)) == form()


def test_a_form_of_several_lines_is_printed_as_it_is(package: Callable[..., None]) -> None:
    text = "[gpu]\n  path = a::b\n"
    package(lambda: replace(HF, name="evil", forms={"as-text": lambda *_: text}))
    plans: Any = {None: None}
    assert written(form_named("as-text"), plans, plans, as_json=False) == text + "\n"


def _adapter(folder: Path, names: list[str], saved: list[str]) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": saved}))
    offsets = {"dtype": "F16", "data_offsets": [0, 0], "shape": [0, 8]}
    header = json.dumps({f"base_model.model.{name}.lora_embedding_A.weight": offsets for name in names}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return str(folder)


def test_many_names_of_an_adapter_are_found_as_fast_as_one(tmp_path: Path) -> None:
    """Each name that a model does not have was compared with each of its modules, and with each module to save."""
    count = 2_000
    tree = ModelTree.parse(
        'name = "m"\n[[module]]\npath = ""\nclass = "M"\n[[module]]\npath = "h"\nclass = "L"\n'
        f'[[module]]\npath = "h.{{0..{count - 1}}}"\nclass = "B"\n'
        f'[[module]]\npath = "h.{{0..{count - 1}}}.mlp"\nclass = "L"\ntensors = {{ weight = [8, 8] }}\n'
    )
    names = [f"h.{at}.mlp" for at in range(count)]
    renamed = [f"was.{name}" for name in names]
    folders = [
        _adapter(tmp_path / "same", names, []),
        _adapter(tmp_path / "renamed", renamed, [f"saved.{at}" for at in range(20_000)]),
    ]
    spent = []
    for folder in folders:
        times = []
        for _ in range(3):  # the least of them, since the machine may be busy
            start = time.process_time()
            found = with_adapters(tree, [folder])
            times.append(time.process_time() - start)
        spent.append(min(times))
        assert sum(len(module.tensors) for module in found.modules) == 2 * count
    assert spent[1] < 10 * spent[0] + 0.1


def test_a_policy_names_a_bounded_number_of_adapters() -> None:
    with pytest.raises(PolicyError, match=f"{MOST_ADAPTERS}"):
        Policy.parse(f'prefer = "cuda"\nloading.adapter = {json.dumps(["a"] * (MOST_ADAPTERS + 1))}\n')


def test_a_broken_host_of_a_fleet_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.toml").write_text("nothing = 5\n")
    nodes = "".join(f'[node.n{at}]\nhost = "./bad.toml"\n' for at in range(50))
    (tmp_path / "f.toml").write_text(nodes)
    read: list[object] = []
    load = reader.load_host
    monkeypatch.setattr(reader, "load_host", lambda name: read.append(name) or load(name))
    with pytest.raises(FleetError):
        Fleet.load(tmp_path / "f.toml")
    assert len(read) == 1


def test_a_folder_of_more_hosts_than_a_fleet_has_is_not_read(tmp_path: Path) -> None:
    for at in range(MOST_NODES + 1):
        (tmp_path / f"{at}.toml").touch()
    with pytest.raises(FleetError, match=f"at most {MOST_NODES} nodes"):
        Fleet.load(tmp_path)


def test_a_dry_run_compiles_nothing() -> None:
    """A checkpoint's `generation_config.json` that asks for a static cache started torch's compiler."""
    pytest.importorskip("torch")
    from devpolicy._core.dry_run import attempt

    asked = SimpleNamespace(eos_token_id=1, decoder_start_token_id=None, compile_config={"backend": "evil"})
    run = object.__new__(attempt._Run)
    run.job = SimpleNamespace(size=SimpleNamespace(new_tokens=1, beams=1))  # type: ignore[assignment]
    config = SimpleNamespace(is_encoder_decoder=False)
    run.model = SimpleNamespace(can_generate=lambda: True, generation_config=asked, config=config)
    assert next(run._calls())[0] == "generate"
    assert (asked.disable_compile, asked.compile_config) == (True, None)


def test_the_guard_sees_what_is_changed(tmp_path: Path) -> None:
    inside, outside = str(tmp_path / "x"), "/etc/passwd"
    events: list[tuple[str, tuple[Any, ...]]] = [
        ("open", (outside, "w", 0)),
        ("open", (outside, None, 0o1)),
        ("os.rename", (inside, outside, -1, -1)),
        ("os.rename", (outside, inside, -1, -1)),
        ("os.link", (inside, outside, -1, -1)),
        ("os.symlink", (inside, outside, -1)),
        ("os.remove", (outside, -1)),
        ("os.truncate", (outside, 0)),
        ("shutil.copyfile", (inside, outside)),
    ]
    for event, args in events:
        assert any(is_outside(path, str(tmp_path)) for path in changed(event, args)), event
    for event, args in (("open", (outside, "r", 0)), ("open", (inside, "w", 0)), ("os.symlink", (outside, inside, -1))):
        assert not any(is_outside(path, str(tmp_path)) for path in changed(event, args)), event
    (tmp_path / "link").symlink_to("/etc")
    assert is_outside(str(tmp_path / "link" / "passwd"), str(tmp_path))
    assert is_outside(f"{tmp_path}-beside/x", str(tmp_path))


def test_names_that_are_not_there_cost_no_look_at_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of thousands of names in `extends` listed every folder that ships, and the policy's own."""
    listed: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: listed.append(path) or glob(path, pattern))
    names = json.dumps([f"no-{at}" for at in range(2_000)])
    (tmp_path / "p.toml").write_text(f'prefer = "cuda"\nextends = {names}\n')
    with pytest.raises(PolicyError, match="there is no policy `no-0`") as refused:
        Policy.load(tmp_path / "p.toml")
    assert len(refused.value.diagnostics) == 1_000
    assert len(listed) < 20


def test_a_hostile_input_is_no_larger_than_somebody_would_send() -> None:
    """One was 1.3 GB, and another was made for minutes: the harness was measured, and no command."""
    line, value = f"x = '{'a' * 10_000}'", [["a" * 10_000] * 50, {"a": [["b"]]}]
    for seed in range(60):
        assert len(change.lines(line, Random(seed))) < 4 * change.LONGEST
        assert change.size(change.tree(value, Random(seed), 8), 20 * change.MOST) < 10 * change.MOST


def test_the_rule_sees_the_memory_of_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    def greedy(random: Random) -> Case:
        subprocess.run([sys.executable, "-c", f"b'x' * {most + (256 << 20)}"], check=True)
        return Case(["--version"])

    monkeypatch.setitem(judge.DOORS, "policy", greedy)
    monkeypatch.setattr(judge, "MEMORY", 64 << 20)
    assert "MB of memory, more than" in str(judge.try_one("policy", 0, tmp_path).faults)


def test_the_rule_tells_a_command_from_the_making_of_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judge.DOORS, "policy", lambda random: 1 / 0)
    assert "no input was made" in judge.try_one("policy", 0, tmp_path).faults


WRITTEN: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "toml": (quote, lambda text: str(tomllib.loads(f"a = {text}")["a"])),
    "model file": (model_writer._literal, lambda text: str(tomllib.loads(f"a = {text}")["a"])),
    "json": (json_text, lambda text: str(json.loads(text))),
    "junit": (
        lambda name: junit([SimpleNamespace(suite=name, name=name, passed=True, seconds=0, findings=(), place=None)]),  # type: ignore[list-item]
        lambda text: str(ElementTree.fromstring(text)[0][0].get("name")),
    ),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("name", ["##[error]x", "a###[x", "\\##[##[", "::error::x"])
def test_no_line_for_programs_is_a_command_of_a_log(form: str, name: str) -> None:
    """`host capture --name '##[error]x'` wrote one."""
    write, read = WRITTEN[form]
    assert all(visible_line(line) == line for line in write(name).rstrip("\n").split("\n"))
    assert read(write(name)) == name


def test_a_command_for_a_shell_is_none_for_a_log() -> None:
    with pytest.raises(DevPolicyError, match="a command of a CI log"):
        in_shell(shlex.join, ["run", "##[error]x"])


def test_every_door_is_tried_as_the_installed_command_too() -> None:
    """Cases were counted over all doors, and with an even number of doors every second one was never tried so."""
    for door in judge.DOORS:
        assert 2 < sum(is_installed(door, seed) for seed in range(400)) < 30
