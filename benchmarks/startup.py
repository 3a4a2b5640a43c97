"""What `import devpolicy` costs, and what a plan of a checkpoint: CPU time of fresh interpreters.

python benchmarks/startup.py [--repeats N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from report import environment, print_table, write_json

BARE = "bare python"
AIM = 0.040
"""Seconds over bare Python's start that the package's import may cost."""

STATEMENTS = {
    BARE: "pass",
    "import devpolicy": "import devpolicy",
    "ComponentDevice": "from devpolicy import ComponentDevice",
    "every public name": "from devpolicy import *",
    "parse a policy": "import devpolicy; devpolicy.Policy.parse('prefer = \"cuda\"')",
    "import haystack.utils.device": "import haystack.utils.device",
    "import torch": "import torch",
}

PLAN = "import devpolicy; devpolicy.plan('prefer-accelerator', {model!r}, '2x24gb')"
CATALOGUE = "a model of the catalogue"
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "hidden_size": 256,
    "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 32,
    "vocab_size": 1000,
}  # fmt: skip
NEMOTRON = {**LLAMA, "model_type": "nemotron", "architectures": ["NemotronForCausalLM"]}


def checkpoint(folder: Path, config: dict[str, object]) -> str:
    """Write a checkpoint with weights of a configuration, and return its path."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    path = folder / str(config["model_type"])
    model.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def plans(folder: Path, repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of a plan: of the catalogue, of a known family, of another, built and kept."""
    llama, nemotron = checkpoint(folder, LLAMA), checkpoint(folder, NEMOTRON)
    kept, off = {"DEVPOLICY_MODEL_CACHE": str(folder / "kept")}, {"DEVPOLICY_MODEL_CACHE": "off"}
    asked = {
        CATALOGUE: ("llama-3.1-8b", off),
        "a checkpoint of a known family": (llama, off),
        "a checkpoint that Transformers builds": (nemotron, off),
        "the same, kept from before": (nemotron, kept),
    }
    samples: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(repeats + 1):
        for name, (model, variables) in asked.items():
            taken = cpu_seconds(PLAN.format(model=model), variables)
            if turn:  # the first one warms the page cache, and fills ours
                samples[name].append(taken)
    return {name: median(taken) for name, taken in samples.items()}


def cpu_seconds(statement: str, variables: dict[str, str] | None = None) -> float:
    """Run `statement` in a fresh interpreter and return its user and system time."""
    environment = os.environ | (variables or {})
    # -P keeps the folder of the command out of sys.path, -I would drop PYTHON* variables a user measures with.
    pid = os.spawnve(os.P_NOWAIT, sys.executable, [sys.executable, "-P", "-c", statement], environment)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"`{statement}` failed")
    return used.ru_utime + used.ru_stime


def measure(repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each statement. They take turns, so that a slow minute slows all of them."""
    possible = {name: code for name, code in STATEMENTS.items() if available(code)}
    for code in possible.values() if repeats > 1 else ():
        cpu_seconds(code)  # bytecode and the page cache are warm for everyone
    samples: dict[str, list[float]] = {name: [] for name in possible}
    for _ in range(repeats):
        for name, code in possible.items():
            samples[name].append(cpu_seconds(code))
    return {name: median(taken) for name, taken in samples.items()}


def available(statement: str) -> bool:
    library = statement.removeprefix("import ").partition(".")[0]
    return not statement.startswith("import ") or ";" in statement or find_spec(library) is not None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=21, metavar="N")
    arguments.add_argument("--quick", action="store_true", help="try that it runs: the figures mean little")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    chosen = arguments.parse_args()
    repeats = 1 if chosen.quick else chosen.repeats

    seconds = measure(repeats)
    over = {name: taken - seconds[BARE] for name, taken in seconds.items()}
    ours = over["import devpolicy"]
    rows = [
        (name, f"{seconds[name] * 1000:.1f}", f"{over[name] * 1000:.1f}", f"{over[name] / ours:.2f}")
        for name in seconds
    ]
    print_table(("what", "CPU ms", "over bare python", "times ours"), rows)
    print(f"aim: under {AIM * 1000:.0f} ms over bare python: {'met' if ours < AIM else 'missed'}")
    figures = {"environment": environment(), "seconds": seconds, "over_bare_python": over, "aim": AIM}
    if find_spec("transformers") and find_spec("torch"):
        with tempfile.TemporaryDirectory() as folder:
            planned = plans(Path(folder), max(1, repeats // 4))
        print()
        one = planned[CATALOGUE]
        print_table(
            ("a plan of", "CPU ms", "times the catalogue's"),
            [(name, f"{taken * 1000:.0f}", f"{taken / one:.2f}") for name, taken in planned.items()],
        )
        figures["plans"] = planned
    write_json(chosen.json, figures)


if __name__ == "__main__":
    main()
