"""What comes in where: each door writes hostile files into the current folder and says which command reads them.

Owns the valid inputs that hostile ones are made of, and the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.attack import model_doors as models
from tests.attack import mutations as change
from tests.attack.case import HOST, Case, planned
from tests.attack.command_doors import COMMANDS

ROOT = Path(__file__).parents[2]


@cache
def _texts(*patterns: str) -> tuple[str, ...]:
    return tuple(
        path.read_text(encoding="utf-8", errors="replace")
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    )


def policy(random: Random) -> Case:
    """Policies: read by every command that takes one."""
    given = random.choice(_texts("policy/*.toml", "tests/cases/bad/*.toml"))
    Path("p.toml").write_bytes(change.lines(given, random))
    if random.random() < 0.2:
        Path("base.toml").write_bytes(b'extends = "p.toml"\n' + change.lines(given, random))
    return Case(
        random.choice(
            [
                ["check", "p.toml", "--format", random.choice(["human", "json", "github", "sarif"])],
                ["plan", "p.toml", "--model", "gpt2", *HOST],
                ["plan", "p.toml", *HOST, "--format", "json", "--output", "out.json"],
                ["resolve", "p.toml", *HOST],
                ["show", "p.toml", *HOST],
                ["why", "p.toml", "lm_head", "--model", "gpt2", *HOST],
                ["check", "p.toml", "--model", "bert-base"],
                [
                    "plan",
                    "p.toml",
                    "--model",
                    "gpt2",
                    *HOST,
                    "--set",
                    f"prefer={change.text(random)}".replace("\0", ""),
                ],
            ]
        )
    )


def host(random: Random) -> Case:
    """Host files."""
    given = random.choice(_texts("fixtures/hosts/*.toml", "fixtures/hosts/faulty/*.toml"))
    Path("h.toml").write_bytes(change.lines(given, random))
    plan = ["plan", "split-across-gpus", "--model", "gpt2", "--host", "h.toml"]
    return Case(
        random.choice(
            [["host", "show", "h.toml"], plan, ["diff", "cpu-only", "prefer-accelerator", "--hosts", "h.toml"]]
        )
    )


def tests(random: Random) -> Case:
    """Files of tests, and policies with tests."""
    given = random.choice([one for one in _texts("policy/*.toml") if "[[test]]" in one])
    Path("p.test.toml").write_bytes(change.lines(given, random))
    return Case(
        random.choice(
            [
                ["test", "p.test.toml", "--jobs", "1"],
                ["test", ".", "--jobs", "1", "--format", "junit"],
                ["check", "p.test.toml"],
            ]
        )
    )


def model_file(random: Random) -> Case:
    """Model files."""
    Path("m.toml").write_bytes(change.lines(random.choice(_texts("fixtures/models/[bg]*.toml")), random))
    return Case(
        random.choice(
            [["model", "show", "m.toml"], planned("m.toml"), ["model", "capture", "m.toml", "--output", "o.toml"]]
        )
    )


@cache
def _lock() -> Any:
    import devpolicy

    return devpolicy.plan("split-across-gpus", "gpt2", "2x24gb").to_dict()


def lock(random: Random) -> Case:
    """Locked plans."""
    if random.random() < 0.1:
        models.odd_file(Path("l.json"), random)
    else:
        made = change.as_json(change.tree(_lock(), random))
        Path("l.json").write_bytes(change.raw(made, random) if random.random() < 0.2 else made)
    return Case(["plan", "split-across-gpus", "--model", "gpt2", "--host", "2x24gb", "--locked", "l.json"])


def device(random: Random) -> Case:
    """Devices of a pipeline's YAML: what Haystack hands over after it was read."""
    saved = random.choice(
        [{"type": "single", "device": "cuda:0"}, {"type": "multiple", "device_map": {"a.b": "cuda:0", "": "cpu"}}]
    )
    return Case([], answer=("device", change.tree(saved, random)))


_BOMBS = (
    "a: &a [x]\nb: &b [*a,*a]\ncomponents: {c: {type: t, init_parameters: &c {c: *b, d: *b}}}\n",
    "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(30)) + "components: *a29\n",
    "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9) if n else ''}]}}\n" for n in range(20)),
    "components: &c {a: {type: t, init_parameters: *c}}\n",
    "components: " + "[" * 100_000,
    "components: " + "{a: " * 5_000,
    "components: " + "1:" * 300_000 + "1\n",
    "components: " + "9" * 100_000,
    "components: !!python/object/apply:os.system ['touch PWNED']\n",
    "components: !!timestamp x\n",
    "components: !!int ''\n",
    "components: !!bool x\n",
    "components: 2001-99-99\n",
    "components: {? [a] : b}\n",
    "%YAML 9.9\n---\ncomponents: {}\n",
    "components: {a: !!binary x}\n---\nb: 1\n",
    "components: \ud83d\ude00\n",
)


def pipeline(random: Random) -> Case:
    """Saved pipelines as files."""
    saved = _rag()
    path = Path("rag.yaml")
    kind = random.random()
    if kind < 0.1:
        models.odd_file(path, random)
    elif kind < 0.3:
        path.write_text(random.choice(_BOMBS), encoding="utf-8", errors="surrogatepass")
    elif kind < 0.7:
        path.write_bytes(change.as_json(change.tree(saved, random)))  # JSON is YAML, nearly
    else:
        path.write_bytes(change.lines(_texts("examples/haystack-rag/rag.yaml")[0], random))
    commands = [
        ["resolve", "rag-pipeline", "--pipeline", "rag.yaml", *HOST],
        ["check", "rag-pipeline", "--pipeline", "rag.yaml"],
    ]
    return Case([*random.choice(commands), *random.choice([[], ["--format", "json"]])])


@cache
def _rag() -> Any:
    import yaml

    return yaml.safe_load(_texts("examples/haystack-rag/rag.yaml")[0])


_VARIABLES = (
    *("DEVPOLICY", "DEVPOLICY_PROFILE", "DEVPOLICY_SIMULATED", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *(
        "COLUMNS",
        "LINES",
        "TERM",
        "NO_COLOR",
        "FORCE_COLOR",
        "CLICOLOR_FORCE",
        "HF_HUB_CACHE",
        "HF_HOME",
        "HF_ENDPOINT",
    ),
    *(
        "DEVPOLICY_MODEL_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "TRANSFORMERS_CACHE",
        "HF_HUB_OFFLINE",
        "HAYSTACK_MPS_ENABLED",
        "HAYSTACK_XPU_ENABLED",
    ),
    *("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("XDG_CACHE_HOME", "LC_ALL", "LANG", "PYTHONIOENCODING", "TORCH_DEVICE_BACKEND_AUTOLOAD"),
    *(
        "CXX",
        "GITHUB_ACTIONS",
        "ACCELERATE_TORCH_DEVICE",
        "_DEVPOLICY_COMPLETE",
        "COMP_WORDS",
        "COMP_CWORD",
        "MODE",
        "CI",
        "SOURCE_DATE_EPOCH",
    ),
)
_ODD_VALUES = (
    "0",
    "1",
    "-1",
    "9" * 400,
    "0,0",
    "GPU-",
    "MIG-",
    "bash_complete",
    "zsh_source",
    "dumb",
    "utf-16",
    "{}",
    "[",
)


def environment(random: Random) -> Case:
    """Variables of the environment."""
    names = random.sample(_VARIABLES, random.randint(1, 4))
    values = {
        name: change.text(random).replace("\0", "").replace("\ud800", "\udcff")
        if random.random() < 0.5
        else random.choice(_ODD_VALUES)
        for name in names
    }
    Path("p.toml").write_text('prefer = ["cuda", "cpu"]\n[profile.a]\nwhen = { env.MODE = "x" }\nsplit = "never"\n')
    commands = [
        ["plan", "p.toml", "--model", "gpt2", *HOST],
        ["plan", "p.toml", "--model", "gpt2", *HOST, "--profile", "a", "--format", "json"],
        ["show", "p.toml", *HOST],
        ["model", "show", "org/name"],
        ["check", "p.toml"],
        ["explain", "DP104"],
        ["resolve", "p.toml", *HOST],
        ["fit", "p.toml", "--model", "gpt2", *HOST],
        ["run", "p.toml", "--model", "gpt2", *HOST, "--print", "--", "serve"],
    ]
    return Case(random.choice(commands), values)


def output(random: Random) -> Case:
    """Where a command writes, what it is compared with, and its other options.

    What is written follows links and absolute paths, as it should: so none of them leads out of the folder here.
    """
    Path("p.toml").write_text('prefer = ["cuda", "cpu"]\n')
    Path("old.json").write_text("{}")
    Path("link").symlink_to("old.json")
    Path("loop").symlink_to("loop")
    Path("to-policy").symlink_to("p.toml")
    Path("folder").mkdir()
    text = change.text(random).replace("/", "_")
    name = random.choice(
        [
            "new.json",
            "old.json",
            "link",
            "loop",
            "to-policy",
            "./p.toml",
            "folder",
            "folder/x",
            "nowhere/x",
            ".",
            "",
            text,
        ]
    )
    if random.random() < 0.3:
        models.odd_file(Path("lock"), random)
    options = [
        ["--output", name, "--format", "json"],
        ["--output", name, "--locked", "old.json"],
        ["--locked", random.choice(["lock", name])],
        ["--set", f"{change.text(random)}={change.text(random)}"],
        ["--what-if", f"{random.choice(['cuda.count', 'memory', change.text(random)])}={change.text(random)}"],
        ["--component", change.text(random)],
        ["--profile", change.text(random)],
        ["--architecture", change.text(random)],
        ["--format", change.text(random)],
        ["--target", change.text(random)],
    ]
    plan = ["plan", "p.toml", "--model", "gpt2", *HOST]
    return Case([*plan, *random.choice(options)])


DOORS: dict[str, Callable[[Random], Case]] = {
    "policy": policy,
    "host": host,
    "tests": tests,
    "model file": model_file,
    "config": models.config,
    "header": models.header,
    "index": models.index,
    "gguf": models.gguf,
    "onnx": models.onnx,
    "hub": models.hub,
    "folder": models.folder,
    "lock": lock,
    "device": device,
    "pipeline": pipeline,
    "environment": environment,
    "output": output,
    **COMMANDS,
}
