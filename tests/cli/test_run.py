"""`devpolicy run`: what a command sees of a machine, and that nothing is started where the plan is refused."""

import json
import os
import subprocess
import sys

import pytest
from tests.cli.harness import invoke

from devpolicy import Accelerator, Host, Policy, plan
from devpolicy._core.targets.environment import environment, shell
from devpolicy.errors import Unsatisfiable

CUDA = 'prefer = "cuda"\n'


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "devpolicy", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(CUDA, encoding="utf-8")
    return file


def test_the_command_sees_the_planned_devices_alone(policy):
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    done = run(policy, "--model", "gpt2", "--host", "2x24gb", "--", sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_the_status_is_the_commands(policy):
    done = run(policy, "--model", "gpt2", "--host", "2x24gb", "--", sys.executable, "-c", "raise SystemExit(7)")
    assert done.returncode == 7


def test_nothing_runs_where_the_plan_is_refused(policy, tmp_path):
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')"
    done = run(policy, "--model", "llama-3.1-405b", "--host", "2x24gb", "--", sys.executable, "-c", code)
    assert done.returncode == 3
    assert "DP301" in done.stderr
    assert not mark.exists()


def test_a_program_that_is_not_there_is_an_error(policy):
    done = run(policy, "--model", "gpt2", "--host", "2x24gb", "--", "no-such-program")
    assert done.returncode == 2
    assert "`no-such-program` cannot be run" in done.stderr
    assert "Traceback" not in done.stderr


def test_printed_and_as_json(policy):
    told = invoke("run", str(policy), "--model", "gpt2", "--host", "2x24gb", "--print", "--", "serve", "a b")
    assert told.stdout == "export CUDA_VISIBLE_DEVICES=0\nserve 'a b'\n"
    told = invoke("run", str(policy), "--model", "gpt2", "--host", "2x24gb", "--format", "json", "--", "serve")
    assert json.loads(told.stdout) == {"schema": 1, "env": {"CUDA_VISIBLE_DEVICES": "0"}, "command": ["serve"]}


def test_without_a_model_the_device_choice_counts(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text('prefer = "cpu"\n', encoding="utf-8")
    told = invoke("run", str(file), "--host", "2x24gb", "--print", "--", "serve")
    assert told.stdout == "export CUDA_VISIBLE_DEVICES=''\nserve\n"


def test_components_are_named(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(
        f'{CUDA}[component.chat]\nneeds = "15 GiB"\n[component.embed]\nneeds = "12 GiB"\n', encoding="utf-8"
    )
    told = invoke("run", str(file), "--host", "2x24gb", "--print", "--", "serve")
    assert told.status == 2
    assert "--component chat" in told.stderr
    seen = []
    for name in ("chat", "embed"):
        told = invoke("run", str(file), "--component", name, "--host", "2x24gb", "--print", "--", "serve")
        seen.append(told.stdout.partition("\n")[0])
    assert seen == ["export CUDA_VISIBLE_DEVICES=0", "export CUDA_VISIBLE_DEVICES=1"]


def made(accelerators, text=CUDA):
    host = Host(accelerators, memory="64 GiB")
    return environment(plan(Policy.parse(text), "gpt2", host), host)


def test_uuids_where_known_else_the_drivers_numbers():
    card = {"memory": "24 GiB", "name": "NVIDIA GeForce RTX 4090"}
    assert made([Accelerator("cuda", uuid="GPU-1", physical=3, **card)]) == {"CUDA_VISIBLE_DEVICES": "GPU-1"}
    by_number = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3"}
    assert made([Accelerator("cuda", physical=3, **card)]) == by_number
    amd = {"memory": "64 GiB", "name": "AMD Instinct MI210"}
    assert made([Accelerator("cuda", **amd)]) == {"HIP_VISIBLE_DEVICES": "0"}
    intel = made([Accelerator("xpu", memory="48 GiB")], 'prefer = "xpu"\n')
    assert intel == {"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}
    with pytest.raises(Unsatisfiable, match="no variable shows"):
        made([Accelerator("npu", memory="48 GiB")], 'prefer = "npu"\n')


def test_devices_of_other_kinds_are_hidden():
    # HIP takes an empty variable for none, and Intel's cards were visible beside NVIDIA's.
    nvidia = Accelerator("cuda", memory="24 GiB", name="NVIDIA GeForce RTX 4090")
    amd, intel = (
        Accelerator("cuda", memory="24 GiB", name="AMD Radeon RX 7900 XTX"),
        Accelerator("xpu", memory="16 GiB"),
    )
    assert made([amd], 'prefer = "cpu"\n') == {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "-1"}
    no_intel = {"ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
    assert made([nvidia, intel]) == {"CUDA_VISIBLE_DEVICES": "0", **no_intel}
    assert made([nvidia, intel], 'prefer = "cpu"\n') == {"CUDA_VISIBLE_DEVICES": "", **no_intel}
    assert made([amd, intel], 'prefer = "xpu"\n') == {
        "HIP_VISIBLE_DEVICES": "-1",
        "ONEAPI_DEVICE_SELECTOR": "level_zero:0",
    }


def test_shell_lines_are_quoted():
    assert shell({"A": "x y;z"}) == "export A='x y;z'\n"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell is needed")
def test_a_shell_reads_the_lines(tmp_path):
    done = subprocess.run(["sh", "-c", shell({"A": "x'y\n$z"}) + 'printf %s "$A"'], capture_output=True, check=True)
    assert done.stdout == b"x'y\n$z"
