"""Doors of commands that plan for somebody: `run`, `fit`, `report`, `dry-run`, `targets`, `fleet`, and `host capture`.

Owns their valid inputs, those of `[loading]` and of adapters, and packages that add targets.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.attack import configs
from tests.attack import model_doors as models
from tests.attack import mutations as change
from tests.attack.case import DRY_RUN_SECONDS, HOST, Case

ROOT = Path(__file__).parents[2]
MARKUP = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "'-alert(1)-'",
    "&#60;b>",
)
"""What a page would take for its own, in place of a name."""

_SIMULATOR = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "devpolicy", "simulator")
"""It was built before."""
_SERVERS = """prefer = ["cuda", "cpu"]
relax = ["context", "quantization", "model"]
loading.quantization = ["none", "nf4"]
[component.chat]
model = ["llama-3.1-8b", "llama-3.2-1b"]
target = "vllm"
workload.context = { min = 1024, max = 8192 }
[component.small]
model = "gpt2"
target = "llama.cpp"
share = "50%"
"""
_LOADING = """prefer = ["cuda", "cpu"]
[loading]
attention = "eager"
architecture = "AutoModelForCausalLM"
quantization = ["none", "nf4", "int8"]
variant = "fp16"
adapter = ["lora", "lora"]
"""


def _policy(text: str, random: Random) -> None:
    Path("p.toml").write_bytes(change.lines(text, random) if random.random() < 0.4 else text.encode())


def run(random: Random) -> Case:
    """What a command would be run with. Nothing is run: what would be is printed, for a shell or as JSON."""
    _policy(_SERVERS, random)
    named = random.choice([["--component", random.choice(["chat", "small", "small/0"])], [], ["--model", "gpt2"]])
    target = ["--target", random.choice(["sglang", "hf", change.text(random)])] if random.random() < 0.3 else []
    told = random.choice([["--print"], ["--format", "json"]])
    return Case(["run", "p.toml", *named, *target, *HOST, *told, "--", "serve", "-m", "chat.gguf"])


def fit(random: Random) -> Case:
    """Questions about many models and hosts."""
    _policy(_SERVERS, random)
    hosts = sorted((ROOT / "fixtures/hosts").rglob("*.toml"))
    host = random.choice(hosts).read_text()
    Path("h.toml").write_bytes(change.lines(host, random) if random.random() < 0.3 else host.encode())
    options = [
        ["--batch", random.choice(["1,2", "0", "9" * 400, "1,1,1,1,1,1,1,1", change.text(random)])],
        ["--quantization", random.choice(["nf4", "fp8", change.text(random)])],
        ["--model", random.choice(["gpt*", "[", "*" * 300, "[!a-z]*", change.text(random)])],
        ["--host", random.choice(["1x?gb", "-", "[]", change.text(random)])],
        ["--component", random.choice(["chat", change.text(random)])],
        [],
    ]
    return Case(["fit", "p.toml", *random.choice([["--component", "chat"], ["--model", "gpt2"]]), "--host", "h.toml",
                 *random.choice(options)])  # fmt: skip


def report(random: Random) -> Case:
    """A page, which must have no markup but its own."""
    name = json.dumps(random.choice(MARKUP))
    rule = f"[[rule]]\nmatch = '**'\nname = {name}\nreason = {name}\nprefer = 'cuda'\n"
    _policy(f"{_SERVERS}[component.{name}]\nneeds = '1 GiB'\n{rule}", random)
    host = random.choice(sorted((ROOT / "fixtures/hosts").glob("[1-4]*.toml"))).read_text()
    Path("h.toml").write_text(
        f"name = {name}\n" + "".join(line for line in host.splitlines(True) if "name" not in line[:5])
    )
    model = (ROOT / "fixtures/models/gpt2.toml").read_text().replace('"gpt2"', name).replace('"GPT2', f"{name[:-1]}")
    Path("m.toml").write_bytes(change.lines(model, random) if random.random() < 0.3 else model.encode())
    chosen = random.choice([["--models", "m.toml"], ["--component", "chat"], ["--models", "m.toml,gpt2"]])
    if random.random() < 0.4:
        part = random.choice([["--component", "chat"], ["--model", "m.toml"], []])
        return Case(["plan", "p.toml", *part, "--host", "h.toml", "--format", "svg", "--output", "r.svg"])
    return Case(["report", "p.toml", *chosen, "--hosts", "h.toml,1x24gb", "-o", random.choice(["r.html", "p.toml"])])


def init(random: Random) -> Case:
    """First policies, of models and pipelines whose names are anything."""
    Path(".git").mkdir()  # the workflow's place
    name = random.choice([*MARKUP, change.text(random).replace("/", "_")])
    saved = {"components": {name: {"type": "haystack.components.generators.X", "init_parameters": {"model": "gpt2"}}}}
    Path("rag.yaml").write_bytes(change.as_json(change.tree(saved, random) if random.random() < 0.3 else saved))
    Path("m.toml").write_text(
        (ROOT / "fixtures/models/gpt2.toml").read_text().replace('"gpt2"', json.dumps(name)),
        errors="surrogatepass",
    )
    host = random.choice(sorted((ROOT / "fixtures/hosts").glob("[1-4]*.toml"))).read_text()
    Path("h.toml").write_bytes(change.lines(host, random) if random.random() < 0.3 else host.encode())
    what = random.choice([["--pipeline", "rag.yaml"], ["--model", "m.toml"], ["--model", "gpt2"]])
    return Case(["init", random.choice(["new", "."]), *what, "--host", "h.toml", "--ci", "github"])


def loading(random: Random) -> Case:
    """Keys of `[loading]`, and what they name."""
    _policy(_LOADING, random)
    _adapter(Path("lora"), random)
    Path("config.json").write_bytes(change.as_json(random.choice(configs.CONFIGS)))
    name = random.choice(["config.json", "config.json", "gpt2"])
    return Case(random.choice([["plan", "p.toml", "--model", name, *HOST], ["check", "p.toml", "--model", name]]))


def adapter(random: Random) -> Case:
    """Folders of LoRA adapters."""
    Path("p.toml").write_text('prefer = ["cuda", "cpu"]\nloading.adapter = "lora"\n')
    _adapter(Path("lora"), random)
    return Case(["plan", "p.toml", "--model", "gpt2", *HOST])


def _adapter(folder: Path, random: Random) -> None:
    folder.mkdir()
    config: Any = {"peft_type": "LORA", "r": 4, "target_modules": ["c_attn"], "modules_to_save": ["lm_head"],
                   "base_model_name_or_path": "gpt2", "auto_mapping": {"base_model_class": "evil.Evil"}}  # fmt: skip
    header: dict[str, Any] = {}
    end = 0
    for at in range(2):
        for part, shape in (("lora_A", [4, 768]), ("lora_B", [2304, 4])):
            size = 2 * shape[0] * shape[1]
            module = random.choice([f"transformer.h.{at}.attn.c_attn", f"x.h.{at}.attn.c_attn", f"h.{at}.attn.c_attn"])
            key = f"base_model.model.{module}.{part}.weight"
            header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    if random.random() < 0.5:
        config = change.tree(config, random)
    else:
        header = change.tree(header, random)
    (folder / "adapter_config.json").write_bytes(change.as_json(config))
    text = change.as_json(header)
    whole = struct.pack("<Q", len(text)) + text + bytes(end)
    (folder / "adapter_model.safetensors").write_bytes(change.raw(whole, random) if random.random() < 0.2 else whole)
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    if random.random() < 0.1:
        odd = folder / random.choice(["adapter_config.json", "adapter_model.safetensors"])
        odd.unlink()
        models.odd_file(odd, random)


def fleet(random: Random) -> Case:
    """Fleets: files, and folders of hosts."""
    given = random.choice(sorted((ROOT / "fixtures/fleets").glob("*.toml"))).read_text()
    Path("f.toml").write_bytes(change.lines(given, random))
    Path("hosts").mkdir()
    for at in range(random.choice([1, 3])):
        host = random.choice(sorted((ROOT / "fixtures/hosts").glob("*.toml"))).read_text()
        Path(f"hosts/{at}.toml").write_bytes(change.lines(host, random))
    if random.random() < 0.2:
        models.odd_file(Path("hosts/odd.toml"), random)
    options = random.choice([[], ["--toml"], ["--format", "json"]])
    return Case(["fleet", "show", random.choice(["f.toml", "f.toml", "hosts", "./hosts/0.toml"]), *options])


_REPLACE = "from dataclasses import replace\nfrom devpolicy._core.abilities import target_of\n"
_TARGETS = (
    "raise RuntimeError('\\x1b[2J broken')",
    "raise SystemExit(5)",
    "raise SystemExit('\\n::error::x')",
    "import no_such_module",
    "class E(BaseException): pass\nraise E('x')",
    "raise MemoryError",
    "def target(): return 5",
    "target = None",
    "def target(): raise GeneratorExit",
    "def target(a, b): pass",
    "def target(): return target()",
    "from devpolicy._core.abilities import Target\ntarget = Target",
    "def target(): return 'hf'",
    "syntax error",
    "\0",
    _REPLACE + "target = replace(target_of('hf'), name='\\x1b[31mevil')",
    _REPLACE + "target = replace(target_of('hf'), name='evil', about='\\n::error::x', distribution='../../x')",
    _REPLACE + "target = target_of('hf')",
    _REPLACE + "target = replace(target_of('hf'), name='evil', abilities=None)",
    _REPLACE + "target = replace(target_of('hf'), name=5)",
    _REPLACE + "target = replace(target_of('hf'), name='evil', forms={'evil': lambda plan, host: 1 / 0})",
    _REPLACE + "target = replace(target_of('hf'), name='evil', forms={'evil': lambda plan, host: {plan}})",
    _REPLACE
    + "target = replace(target_of('hf'), name='evil', forms={'evil': lambda plan, host: '\\x1b[2J\\n::error::x'})",
)
"""Modules of packages that add targets, broken in every way in which a package can be broken."""
_ENTRIES = (
    "evil = evil_target:target",
    "evil = evil_target:no.such.name",
    "evil = evil_target",
    "\x1b[2J = evil_target:target",
    "evil = ",
    "evil = evil_target:target [extra]",
    "hf = evil_target:target",
    "evil = a b c",
)


def targets(random: Random) -> Case:
    """Installed packages that add targets. They may run, and must not take a command with them."""
    site = Path("site")
    info = site / "evil-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "evil_target.py").write_text(random.choice(_TARGETS), errors="surrogatepass")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    chosen = random.choice([_ENTRIES[0], _ENTRIES[0], *_ENTRIES])
    (info / "entry_points.txt").write_text(f"[devpolicy.targets]\n{chosen}\n")
    Path("p.toml").write_text('prefer = "cuda"\n[component.a]\nmodel = "gpt2"\ntarget = "evil"\n')
    commands = [
        ["targets"],
        ["targets", "evil"],
        ["targets", "--format", "json"],
        ["plan", "p.toml", *HOST],
        ["plan", "cpu-only", "--model", "gpt2", *HOST, "--to", "evil"],
        ["check", "p.toml"],
    ]
    return Case(random.choice(commands), packages="site")


def capture(random: Random) -> Case:
    """This machine as a file: names, what is kept of it, where it is written. What is measured is refused before."""
    Path("old.toml").write_text("x = 1\n")
    text = change.text(random).replace("/", "_")
    options = [
        ["host", "capture", "--name", text],
        ["host", "capture", "--include", text],
        ["host", "capture", "--output", random.choice(["old.toml", "nowhere/x", ".", "", text])],
        ["host", "measure", "--include", text],
        ["host", "measure", "--output", "old.toml", "--name", text],
        ["host", "measure", "--name", " "],
    ]
    return Case(random.choice(options), outside=True)


def dry_run(random: Random) -> Case:
    """Dry runs of hostile configurations, beside whatever generation is asked for."""
    Path("evil.py").write_text(models.EVIL)
    made = configs.hostile(random) if random.random() < 0.5 else random.choice(configs.CONFIGS)
    Path("config.json").write_bytes(change.as_json(made))
    generation: Any = {
        "max_length": 10**9, "max_new_tokens": 10**9, "num_beams": 10**6, "num_return_sequences": 10**6,
        "cache_implementation": "static", "custom_generate": ".", "trust_remote_code": True, "eos_token_id": [[]],
        "decoder_start_token_id": 10**9, "penalty_alpha": 0.5, "top_k": 0, "num_assistant_tokens": -1,
        "compile_config": {"backend": "evil"}, "guidance_scale": 2, "stop_strings": ["x"], "use_cache": "evil",
    }  # fmt: skip
    chosen = {key: generation[key] for key in random.sample(sorted(generation), random.choice([0, 1, 3]))}
    Path("generation_config.json").write_bytes(change.as_json(chosen))
    ours = Path(os.environ["XDG_CACHE_HOME"], "devpolicy")
    ours.mkdir()
    (ours / "simulator").symlink_to(_SIMULATOR)
    if random.random() < 0.1:
        where = ["--model", "config.json", *HOST, "--timeout", str(DRY_RUN_SECONDS)]
        return Case(["dry-run", "prefer-accelerator", *where], outside=True)
    return Case([], answer=("dry run", None))


COMMANDS: dict[str, Callable[[Random], Case]] = {
    "run": run,
    "fit": fit,
    "report": report,
    "init": init,
    "loading": loading,
    "adapter": adapter,
    "fleet": fleet,
    "targets": targets,
    "capture": capture,
    "dry run": dry_run,
}
