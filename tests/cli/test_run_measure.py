"""`devpolicy run --measure`: a stand-in for a program of llama.cpp, whose log is compared with the plan."""

import json
import subprocess
import sys
import time

import pytest
from tests.cli.harness import invoke
from tests.test_models_gguf import LLAMA, dense, gguf

from devpolicy import Host, ModelTree, Policy, plan

TEXT = 'prefer = "cuda"\nsplit = "balanced"\nworkload.context = 512\n'
MIB = 1 << 20
# It loads what it is told to hold, says so as llama.cpp does, and would serve until it is ended.
STAND_IN = """
import os, sys, time
assert os.environ["LLAMA_ARG_FIT"] == "off" and os.environ["LLAMA_ARG_DEVICE"] == "CUDA0,CUDA1", os.environ
print("0.00.1 I load_tensors: loading model tensors, this can take a while...", file=sys.stderr)
for line in {lines!r}:
    print(line, file=sys.stderr)
print("0.00.2 I sched_reserve: graph: nodes = 570, splits = 1, input objects = 4", file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "policy.toml").write_text(TEXT, encoding="utf-8")
    gguf(tmp_path / "chat.gguf", dense(6, head=True), {**LLAMA, "llama.block_count": 6})
    return tmp_path


def made_in(here):
    return plan(Policy.load(here / "policy.toml"), ModelTree.load(here / "chat.gguf"), Host.load("2x24gb"))


def lines_of(made, **other):
    """What llama.cpp would log of a plan; `other` are further MiB of a term."""
    lines = []
    for device, budget in made.ledger.items():
        place = {"cuda:0": "CUDA0", "cuda:1": "CUDA1"}.get(device, "CPU")
        for term, what in (("weights", "model"), ("kv_cache", "KV"), ("activations", "compute")):
            size = getattr(budget, term) / MIB + other.get(term, 0) * (place == "CUDA1")
            mapped = "CPU_Mapped" if (place, what) == ("CPU", "model") else place
            lines += [f"0.00.1 I load: {mapped:>10} {what} buffer size = {size:8.2f} MiB"] if size else []
    return [*lines, "0.00.1 I sched_reserve:  CUDA_Host compute buffer size =     0.00 MiB"]


def measured(here, code, *options, policy="policy.toml"):
    arguments = ("run", str(here / policy), "--model", str(here / "chat.gguf"), "--host", "2x24gb", "--measure")
    return invoke(*arguments, *options, "--", sys.executable, "-c", code)


def test_what_is_loaded_is_as_planned(here):
    made = made_in(here)
    assert set(made.ledger) == {"cuda:0", "cuda:1", "cpu"}
    began = time.monotonic()
    told = measured(here, STAND_IN.format(lines=lines_of(made)))
    assert told.status == 0, told
    assert "as planned" in told.stdout
    assert time.monotonic() - began < 60  # it was ended
    # What it prints are lines for the policy, by which the next plan counts what was measured.
    again = here / "again.toml"
    again.write_text(TEXT + told.stdout[told.stdout.index("# measured with") :], encoding="utf-8")
    next_plan = plan(Policy.load(again), ModelTree.load(here / "chat.gguf"), Host.load("2x24gb"))
    for device, budget in made.ledger.items():
        assert 0 <= next_plan.ledger[device].activations - budget.activations < 12 * 1024
    told = measured(here, STAND_IN.format(lines=lines_of(made)), policy="again.toml")
    assert told.status == 0, told


@pytest.mark.parametrize(
    ("more", "says"),
    [({"weights": 0.5}, "of weights, and"), ({"kv_cache": -0.25}, "of KV cache"), ({"activations": 2}, "to compute")],
)
def test_what_is_not_as_planned_is_said(here, more, says):
    code = STAND_IN.format(lines=lines_of(made_in(here), **more))
    told = measured(here, code, "--format", "json")
    found = json.loads(told.stdout)
    assert told.status == 1
    assert not found["as_planned"]
    (one,) = found["differences"]
    assert "`cuda:1`" in one
    assert says in one


def test_less_to_compute_with_is_no_difference(here):
    told = measured(here, STAND_IN.format(lines=lines_of(made_in(here), activations=-1)))
    assert told.status == 0, told


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit('error: no model')", "ended with status 1 before the model was loaded: error: no model"),
        ("print('hello')", "does not say what each device holds"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("print('x: Vulkan0 model buffer size = 1.00 MiB')", "names a buffer on `Vulkan0`, and the plan uses no such"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\x00' * 200_000)", "does not say what each device holds"),
    ],
)
def test_a_log_of_another_kind_is_an_error(here, code, says):
    told = measured(here, code)
    assert (told.status, says in told.stderr) == (2, True), told
    assert "= help:" in told.stderr


def test_a_program_that_never_loads_is_ended(here):
    mark = here / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    told = measured(here, code, "--timeout", "3")
    assert told.status == 2
    assert "not loaded within 3 seconds" in told.stderr
    if sys.platform == "linux":
        listed = subprocess.run(["ps", "-p", mark.read_text()], capture_output=True, check=False)
        assert listed.returncode


def test_only_a_plan_for_llama_cpp_is_measured(here):
    told = invoke("run", str(here / "policy.toml"), "--model", "gpt2", "--host", "2x24gb", "--measure", "--", "serve")
    assert (told.status, "no plan for it" in told.stderr) == (2, True)
    told = measured(here, "", "--print")
    assert (told.status, "`--print` runs nothing" in told.stderr) == (2, True)
    arguments = ("run", str(here / "policy.toml"), "--model", str(here / "chat.gguf"), "--host", "2x24gb", "--measure")
    told = invoke(*arguments, "--", "no-such-program")
    assert (told.status, "`no-such-program` cannot be run" in told.stderr) == (2, True)
