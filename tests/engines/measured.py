"""`devpolicy run --measure` with llama.cpp itself: its log is as planned, and the next plan counts what it says.

Owns two cases: the CPU alone, by the command line, and three devices, which are servers on this machine. Those have
names that no plan gives, so the function behind the command is called.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from devpolicy import ModelTree, Plan
from devpolicy._core.targets.llama_cpp import to_llama_cpp
from devpolicy._core.targets.llama_cpp_log import Held, differences, measure, reserves

CARDS = (40_000, 40_000, 60_000)


def compare(binaries: Path, folder: Path, file: Path) -> int:
    """Print how both cases compare, and return how many are not as planned."""
    wrong = [*_on_the_cpu(binaries, folder, file), *_on_devices(binaries, file)]
    print(*(wrong or ["measured: the CPU alone and three devices are as planned"]), sep="\n", flush=True)
    return len(wrong)


def _command(binaries: Path, file: Path) -> list[str]:
    return [str(binaries / "llama-completion"), "-m", str(file), "-p", "<0x41>", "-n", "1", "-t", "1", "-no-cnv"]


def _on_the_cpu(binaries: Path, folder: Path, file: Path) -> list[str]:
    policy = folder / "measured.toml"
    policy.write_text("prefer = 'cpu'\nworkload.context = 512\n", encoding="utf-8")
    arguments = ["run", str(policy), "--model", str(file), "--host", "cpu-only", "--measure", "--"]
    done = subprocess.run(
        [sys.executable, "-m", "devpolicy", *arguments, *_command(binaries, file)],
        env={**os.environ, "LD_LIBRARY_PATH": str(binaries)},
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [f"the CPU alone: {done.stdout}{done.stderr}"]


def _on_devices(binaries: Path, file: Path) -> list[str]:
    from tests.engines.llama_cpp import planned

    tree = ModelTree.load(file)
    first = planned("split = 'balanced'\n", CARDS, tree)
    held = _held(binaries, file, first)
    text = reserves(first, held, "llama-completion")
    second = planned(f"split = 'balanced'\n{text}", CARDS, tree)
    wrong = [*differences(first, held), *differences(second, _held(binaries, file, second))]
    counted = {device: one.activations for device, one in second.ledger.items()}
    more = [device for device, size in counted.items() if size > first.ledger[device].activations]
    return [*wrong, *(f"{device}: measured as more than was estimated" for device in more)]


def _held(binaries: Path, file: Path, made: Plan) -> dict[str, Held]:
    from tests.engines.llama_cpp import PORTS

    addresses = [f"127.0.0.1:{port}" for port in PORTS]
    told = to_llama_cpp(made, {f"cuda:{number}": f"RPC{number}" for number in range(len(PORTS))}).to_env()
    buffers = re.sub(
        r"=RPC(\d)(?=,|$)",
        lambda found: f"=RPC0[{addresses[int(found[1])]}]",
        told.pop("LLAMA_ARG_OVERRIDE_TENSOR", ""),
    )
    variables = {**told, "LLAMA_ARG_RPC": ",".join(addresses), "LD_LIBRARY_PATH": str(binaries)}
    variables |= {"LLAMA_ARG_OVERRIDE_TENSOR": buffers} if buffers else {}
    names = {f"RPC0[{address}]": f"cuda:{number}" for number, address in enumerate(addresses)}
    return measure(_command(binaries, file), variables, names, timeout=120)
