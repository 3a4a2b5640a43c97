"""The way of a plan: the modules and functions of devpolicy that one `plan()` enters.

    python -m tools.trace_plan [--functions] [POLICY MODEL HOST]

Counts what is entered while the inputs are values already, so that it shows the planner and not the readers of files.
The policy is a name, a path or TOML text.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import devpolicy

if TYPE_CHECKING:
    from types import FrameType

DEFAULT = ('prefer = ["cuda", "mps"]\n[offload]\nlm_head = "disk"\n', "llama-3.1-8b", "1x24gb")
_PACKAGE = str(Path(devpolicy.__file__).parent)
_NO_FUNCTIONS = ("<lambda>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<module>")


def entered(policy: str, model: str, host: str) -> Counter[tuple[str, str]]:
    """Return how often `plan()` enters each function, by its module and qualified name."""
    found: Counter[tuple[str, str]] = Counter()

    def profiler(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Comprehensions belong to their function; what `@dataclass` writes has no file of ours.
        if event == "call" and code.co_filename.startswith(_PACKAGE) and code.co_name not in _NO_FUNCTIONS:
            module = Path(code.co_filename).relative_to(_PACKAGE).with_suffix("").as_posix().replace("/", ".")
            found[module, code.co_qualname] += 1

    plan = devpolicy.plan
    plan(*_values(policy, model, host))  # what is imported and compiled when it is first needed is not counted
    values = _values(policy, model, host)  # values remember what was computed of them, so these are new
    sys.setprofile(profiler)
    try:
        plan(*values)
    finally:
        sys.setprofile(None)
    return found


def _values(policy: str, model: str, host: str) -> tuple[devpolicy.Policy, devpolicy.ModelTree, devpolicy.Host]:
    read = devpolicy.Policy.parse if "=" in policy else devpolicy.Policy.load
    return read(policy), devpolicy.ModelTree.load(model), devpolicy.Host.load(host)


def main() -> None:
    """Print the modules, each with the number of its functions that are entered, and the sums."""
    parser = argparse.ArgumentParser(description="Trace one plan.")
    parser.add_argument("inputs", nargs="*", metavar="POLICY MODEL HOST")
    parser.add_argument("--functions", action="store_true", help="list the functions, too")
    arguments = parser.parse_args()
    if len(arguments.inputs) not in (0, 3):
        parser.error("give a policy, a model and a host, or none of them")
    found = entered(*(arguments.inputs or DEFAULT))
    modules: dict[str, list[str]] = {}
    for module, function in found:
        modules.setdefault(module, []).append(function)
    for module, functions in sorted(modules.items()):
        print(f"{len(functions):4}  {module}")
        for function in functions if arguments.functions else ():
            print(f"          {function}  x{found[module, function]}")
    print(f"{len(modules)} modules, {len(found)} functions")


if __name__ == "__main__":
    main()
