"""The table of `docs/targets.md`: what a policy asks for, and what becomes of it for each target, found by asking.

`python -m tests.targets.asked` writes it anew. A small model in the target's own format is planned on two cards, as the
policy says and without what is asked; what differs in the forms of `--to` was told.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.abilities import target_of
from devpolicy._core.cli.output_formats import OUTPUT_FORMATS
from devpolicy._core.conformance.targets import _model
from devpolicy._core.model.tree import Format, Module, Tensor
from devpolicy.errors import DevPolicyError

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
BEGIN, END = "<!-- asked -->", "<!-- /asked -->"
TARGETS = (
    *("hf", "haystack", "torch", "spacy", "llama.cpp", "vllm", "sglang", "ktransformers", "exllamav3"),
    *("diffusers", "onnx"),
)
ASKED = {
    "more than one device holds": (6, ""),
    "`split = { tensor = 2 }`": (64, "split = { tensor = 2 }"),
    "a rule: a layer on another device": (64, '[[rule]]\nmatch = "blk.3"\nprefer = "cuda:1"'),
    "a rule: a part of a layer there": (64, '[[rule]]\nmatch = "blk.3.ffn"\nprefer = "cuda:1"'),
    "`offload`: a layer, `cpu`": (64, '[offload]\n"blk.0" = "cpu"'),
    "`offload`: a layer, `disk`": (64, '[offload]\n"blk.0" = "disk"'),
    '`overflow = "cpu"`, with too little room': (3, 'overflow = "cpu"'),
    '`workload.dtype = "float32"`': (64, 'workload.dtype = "float32"'),
    "`workload.context`": (64, "workload.context = 512"),
    "`workload.batch`": (64, "workload.batch = 2"),
    '`workload.kv_dtype = "float32"`': (64, 'workload.kv_dtype = "float32"'),
    '`workload.kv_dtype = "float8_e5m2"`': (64, 'workload.kv_dtype = "float8_e5m2"'),
    '`workload.kv_offload = "cpu"`': (64, 'workload.kv_offload = "cpu"'),
    '`loading.attention = "eager"`': (64, 'loading.attention = "eager"'),
}
"""What is asked, in MiB of each of two cards and in a policy's words."""
_OF_PIPELINES = {"blk.3.ffn": "vae.decoder", "blk.3": "vae", "blk.0": "vae"}
"""What layers are in a pipeline: components."""
_ROOM = 'memory.cuda = { headroom = 0, basis = "total", reserve = { activations = 0 } }\n'


def outcome(target: str, mebibytes: int, text: str) -> str:
    """Return what becomes of a policy: `told`, `counted` (the plan alone knows it), a warning's or a refusal's code."""
    base = f'prefer = "cuda"\noverflow = []\n{_ROOM}'
    base = base.replace("overflow = []\n", "") if "overflow" in text else base
    # A table of the policy's text ends what stands at the top of it.
    try:
        made, forms = _planned(target, mebibytes, f"{text}\n{base}" if not text.startswith("[") else f"{base}{text}")
    except DevPolicyError as refused:
        return f"refused ({refused.code})"
    try:
        other, without = _planned(target, 64, base)
    except DevPolicyError:
        return "told"
    new = {one.code for one in made.warnings} - {one.code for one in other.warnings}
    if new:
        return f"warned ({', '.join(sorted(new))})"
    if forms != without:
        return "told"
    return "counted" if made.ledger != other.ledger else "the same"


def _planned(target: str, mebibytes: int, text: str) -> tuple[Plan, dict[str, str]]:
    host = Host([Accelerator("cuda", memory=f"{mebibytes} MiB")] * 2, memory="8 GiB", disk="1 TiB")
    formats: tuple[Format, ...] = get_args(Format)
    tree = _model(max(one for one in formats if one in target_of(target).abilities.reads))
    if tree.format == "diffusers":
        tree = _pipeline()
        for layer, component in _OF_PIPELINES.items():
            text = text.replace(f'"{layer}"', f'"{component}"')
    made = plan(Policy.parse(text), tree, host, target=target)
    return made, {
        name: repr(form.of_plan(made, host)) for name, form in OUTPUT_FORMATS.items() if form.target == target
    }


def _pipeline() -> ModelTree:
    def holds(path: str, elements: int) -> Module:
        return Module(path, "Part", (Tensor("weight", (elements, 1), "float16"),))

    modules = [Module("", "FluxPipeline")]
    for name, parts in {"transformer": ("first", "second"), "vae": ("encoder", "decoder")}.items():
        modules += [Module(name, "Component"), *(holds(f"{name}.{part}", 1 << 20) for part in parts)]
    return ModelTree("pipeline", tuple(modules), format="diffusers")


def table() -> str:
    """Return the table."""
    lines = [f"| asked | {' | '.join(f'`{name}`' for name in TARGETS)} |", f"|---|{'---|' * len(TARGETS)}"]
    for asked, (mebibytes, text) in ASKED.items():
        cells = (outcome(name, mebibytes, text) for name in TARGETS)
        lines.append(f"| {asked} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
