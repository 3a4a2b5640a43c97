"""How the planned model is loaded: what its checkpoint decides, what the policy decides, and whether the two agree.

Owns the `Loading` of a plan, and the refusals and warnings about `[loading]`. What a way of loading does to the bytes
of a model is decided before, where the model is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from devpolicy._core.abilities import Target
from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.policy import LoadingTable, ResolvedPolicy
from devpolicy._core.loading import Loading
from devpolicy._core.loading.quantizations import NONE
from devpolicy._core.loading.value import Pairs
from devpolicy._core.memory.sizing import compute_dtype, context_of
from devpolicy._core.model.form import Held
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.apply_rules import Offload
from devpolicy._core.placement.divide import Unit

_HALF = ("float16", "bfloat16")
_FLASH = "flash_attention"
AS_STORED = ("gguf", "onnx")
"""The formats of files whose types are those of the engine that loads them."""
GGUF_CACHES = ("float32", "float16", "bfloat16")
"""What llama.cpp keeps a KV cache in, of the dtypes that a policy can name."""


def loading_of(policy: ResolvedPolicy, held: Held, folder: str | None, rewritten: int, *, elsewhere: bool) -> Loading:
    """Return how a plan's model is loaded. `rewritten` bytes go to `folder`; a part is kept `elsewhere`."""
    asked, tree = policy.loading, held.tree
    return replace(
        tree.loading,
        notes=(),
        replaced=(),
        made_anew=(),
        cache=None,
        compared=(),
        dtype=policy.workload.dtype,
        model_dtype=None if policy.workload.dtype else tree.default_dtype,
        offload_folder=folder,
        rewritten=rewritten,
        scheme=held.scheme,
        quantization={**held.arguments, **held.arguments_beside}
        if elsewhere and held.arguments and held.arguments_beside
        else held.arguments,
        assumed=tuple(map(str, held.assumed)),
        context=context_of(tree, policy.workload),
        batch=policy.workload.batch,
        beams=policy.workload.beams or tree.beams,
        asked=() if asked == LoadingTable() else tuple(asked_pairs(asked)),
    )


def check_loading(policy: ResolvedPolicy, tree: ModelTree, consumer: Target) -> list[Diagnostic]:
    """Return warnings about what the policy says of loading. Raises `Unsatisfiable` (DP416) where it cannot be had."""
    asked = policy.loading
    if asked == LoadingTable() and policy.workload.kv_dtype is None and tree.format not in AS_STORED:
        return []
    wrong = [*_cannot(asked, policy, tree), *(_as_stored(policy, tree) if tree.format in AS_STORED else ())]
    lost = [key for key, _ in asked_pairs(asked) if key not in consumer.abilities.carries]
    # Of a file that is loaded as it is stored that was said.
    lost = [key for key in lost if key != "quantization" or tree.format not in AS_STORED]
    for key in lost:
        message = f"`{consumer.name}` does not take `loading.{key}`"
        if consumer.abilities.maps:
            # It loads the model itself, and another one than was planned.
            hint = "write it where the component is made, and leave it out here; or plan for `hf`"
            if key == "adapter":  # PEFT would load it, and dispatch the model anew
                hint = "merge it into its model (PEFT's `merge_and_unload`), and plan that; or plan for `hf`"
            wrong.append(Diagnostic("DP416", message, help=hint))
    if wrong:
        raise Unsatisfiable(wrong)
    return [*_already(asked, tree), *_not_told(lost, consumer), *_cache_not_told(policy, tree, consumer)]


def _already(asked: LoadingTable, tree: ModelTree) -> Iterator[Diagnostic]:
    """Yield a warning where a policy asks for a scheme of a checkpoint that has one."""
    has = tree.quantization
    if has is not None and asked.quantization not in ((), (has.scheme,)):
        message = f"`{tree.name}` is quantised already (`{has.scheme or has.method}`), and stays so"
        yield Diagnostic("DP416", message, help="leave `loading.quantization` out", severity="warning")


def _not_told(lost: list[str], consumer: Target) -> Iterator[Diagnostic]:
    hint = "whoever loads the model has to do it"
    yield from (
        Diagnostic("DP416", f"`{consumer.name}` does not take `loading.{key}`", help=hint, severity="warning")
        for key in lost
    )


def _cache_not_told(policy: ResolvedPolicy, tree: ModelTree, consumer: Target) -> Iterator[Diagnostic]:
    """Yield a warning where a cache is counted in another dtype than the one in which the consumer would make it."""
    cache, dtype = policy.workload.kv_dtype, compute_dtype(tree, policy.workload)
    if cache in (None, dtype) or not tree.kv_cache or "kv_dtype" in consumer.abilities.carries:
        return
    message = f"`{consumer.name}` does not take `workload.kv_dtype`, and keeps the KV cache in the model's `{dtype}`"
    hint = f"make a cache of `{cache}` where the model generates; or leave `workload.kv_dtype` out"
    yield Diagnostic("DP416", message, help=hint, severity="warning")


def refused_on(attention: str, kind: str) -> str | None:
    """Return why an implementation of attention cannot be had on a type of device, `None` where it can."""
    if attention.startswith(_FLASH) and kind in ("cpu", "mps"):
        return f"`{attention}` does not run on `{kind}`"
    return None


def _as_stored(policy: ResolvedPolicy, tree: ModelTree) -> Iterator[Diagnostic]:
    """Yield what a policy asks that the engines of such files do not do: they compute in the types of the file."""
    dtype, cache = policy.workload.dtype, policy.workload.kv_dtype
    if dtype is not None:
        message = f"{tree.format.upper()} files are loaded as they are stored, and not in `{dtype}`"
        yield Diagnostic("DP416", message, help="leave `workload.dtype` out, or take a file of that type")
    scheme = next((one for one in policy.loading.quantization if one != NONE), None)
    if scheme is not None:
        message = f"{tree.format.upper()} files are loaded as they are stored, and not quantised to `{scheme}`"
        yield Diagnostic("DP416", message, help="leave `loading.quantization` out, or take a file of that type")
    if tree.format == "gguf" and cache is not None and cache not in GGUF_CACHES:
        message = f"llama.cpp keeps no KV cache in `{cache}`"
        yield Diagnostic("DP416", message, help=f"known are {', '.join(f'`{one}`' for one in GGUF_CACHES)}")


def stays_error(tree: ModelTree, units: Sequence[Unit], offloaded: Mapping[int, Offload]) -> Diagnostic | None:
    """Return why something cannot be kept where it is offloaded to, `None` where it can.

    What accelerate brings in for each forward are the model's own weights, whatever PEFT loads in their place; and from
    the disk, what the checkpoint stores.
    """
    replaced = {tree.index[path]: path for path in tree.loading.replaced}
    anew = {tree.index[name.rpartition(".")[0]]: name for name in tree.loading.made_anew}
    for at, offload in offloaded.items():
        unit = units[at]
        found = next((path for place, path in replaced.items() if unit.start <= place < unit.end), None)
        if found is not None:
            message = f"an adapter works on the weights of `{found}` themselves, which are kept elsewhere"
            return Diagnostic("DP416", message, help=f"leave `{found}` where it runs")
        lost = next((name for place, name in anew.items() if unit.start <= place < unit.end), None)
        if lost is not None and offload.place == "disk":
            message = f"the checkpoint does not store `{lost}`, so `{unit.path}` cannot be kept on `disk`"
            hint = "keep it on `cpu` or where it runs, or complete the checkpoint: load it, and `save_pretrained`"
            return Diagnostic("DP415", message, help=hint)
    return None


def findings_of_float32(
    policy: ResolvedPolicy, units: Sequence[Unit], offloaded: Mapping[int, Offload]
) -> list[Diagnostic]:
    """Return a warning where a rule keeps units on disk, and parts of them stay on the CPU: they are in float32."""
    places = {rule.name: rule for rule in policy.rules if rule.offload and rule.offload[0].type == "disk"}
    moved = [
        (units[at], places[one.rule])
        for at, one in offloaded.items()
        if one.place == "cpu" and units[at].float32 and one.rule in places
    ]
    if not moved:
        return []
    (first, rule), more = moved[0], f" and {len(moved) - 1} more" * (len(moved) > 1)
    message = f"rule `{rule.name}` keeps `{first.path}`{more} on `cpu`, and the rest on `disk`"
    note = "loading keeps it in float32, and read from disk it would run in the dtype of the model"
    return [Diagnostic("DP413", message, rule.place, notes=(note,), severity="warning")]


def asked_pairs(table: LoadingTable) -> Iterator[tuple[str, str]]:
    """Yield what a policy says of loading. A folder goes by its own name, which is the same on every machine."""
    if table.quantization not in ((), (NONE,)):
        yield "quantization", ", ".join(table.quantization)
    for key in ("attention", "architecture", "variant"):
        value = getattr(table, key)
        if value is not None:
            yield key, value
    if table.adapter:
        yield "adapter", ", ".join(PurePath(folder).name for folder in table.adapter)


def _cannot(asked: LoadingTable, policy: ResolvedPolicy, tree: ModelTree) -> Iterator[Diagnostic]:
    if len(asked.quantization) > 1:
        yield Diagnostic("DP416", "one scheme is planned for, and `quantization` lists several", help="write one")
    attention = asked.attention
    if attention not in (None, "eager") and {word for _, word in tree.loading.attention} == {"eager"}:
        message = f"`{tree.loading.architecture}` has no `{attention}` attention"
        yield Diagnostic("DP416", message, help='leave `attention` out, or write `"eager"`')
    dtype = compute_dtype(tree, policy.workload)
    if attention is not None and attention.startswith(_FLASH) and dtype not in _HALF:
        message = f"`{attention}` computes in half precision, and the model is in `{dtype}`"
        yield Diagnostic("DP416", message, help='ask for it: `workload.dtype = "bfloat16"`')


def attention_of(policy: ResolvedPolicy, tree: ModelTree) -> Pairs:
    """Return the attention of each part: the one asked for, but where a part has none but `eager`."""
    own, asked = tree.loading.attention, policy.loading.attention
    if asked is None:
        return own
    if asked == "eager" or len(own) < 2:
        return (("", asked),)
    pairs = tuple((part, word if word == "eager" else asked) for part, word in own)
    return (("", asked),) if len({word for _, word in pairs}) == 1 else pairs
