"""The tree of a model whose weights are quantised, as a consumer holds it on a host.

`quantize(tree, word, facts, schemes)` is the whole of it, a pure function: a tree as its modules are written, the word
of a scheme (`"nf4"`, or `None`), what decides on the host, and a consumer's table. It returns `Held`, the tree with the
bytes that are held then and with what loading is told, or `NotHeld` with the reason. A checkpoint that is quantised
already is what it is, whatever the word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devpolicy._core.loading.conditions import assumed_of, is_rocm, lacks, wrong_version
from devpolicy._core.loading.quantization import (
    DTYPE,
    Facts,
    NotRead,
    Package,
    Quantization,
    Reading,
    Scheme,
    SchemeSupport,
)
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.model.conversion import converted, converted_paths, left_experts, outdated_skip, tied_module
from devpolicy._core.model.packing import packed_tree, transient_of
from devpolicy._core.model.shares import undivided
from devpolicy._core.model.tree import ModelTree, Module
from devpolicy._core.sizes import format_size

_EVERYWHERE = frozenset({"cpu", "disk"})


@dataclass(frozen=True, slots=True)
class Held:
    """A model as it is held."""

    tree: ModelTree
    arguments: Mapping[str, Any] | None = None
    """The configuration that loading is handed; `None` where it is handed none."""
    arguments_beside: Mapping[str, Any] = field(default_factory=dict)
    """What it has besides where a part is kept elsewhere."""
    beside: frozenset[str] = _EVERYWHERE
    """Where weights may be kept beside accelerators."""
    because: str = ""
    """Why not elsewhere."""
    scheme: str = "none"
    """What the weights are held as: a name of `SCHEMES`, or `"none"`."""
    dequantized: str = ""
    """Why a quantised checkpoint is held dequantised; empty where it is not."""
    assumed: tuple[Package, ...] = ()
    """What must be installed, and is not recorded of the host."""
    skips_elsewhere: bool = False
    """Whether the library leaves each module that the map keeps elsewhere, and takes the map's keys for a list."""
    left: int = 0
    """Bytes of experts that are held as they are, because the scheme converts linear modules alone."""
    several: bool = True
    """Whether it may be divided over accelerators."""
    instead: Held | None = None
    """What it is held as where it is divided, or kept elsewhere in part; `None` where that changes nothing."""


@dataclass(frozen=True, slots=True)
class NotHeld:
    """Why a model cannot be held so."""

    reason: str
    notes: tuple[str, ...] = field(default=())
    by_host: bool = False
    """Whether another host may hold it."""
    help: str = ""
    """The way out, where it is one for this checkpoint."""
    planned: bool = True
    """Whether it is the consumer that refuses; else no plan is made of what it may load."""


def quantize(
    tree: ModelTree, word: str | None, facts: Facts, schemes: Mapping[str, SchemeSupport], dtype: str | None = None
) -> Held | NotHeld:
    """Return a model as it is held in a scheme on a host by a consumer, or why it cannot be.

    `word` is a name of `SCHEMES`; `None` and `"none"` leave the model as its checkpoint has it. `dtype` is what the
    policy asks for.
    """
    if tree.quantization is not None:
        return _stored(tree, tree.quantization, facts, schemes, dtype)
    if word is None or word == "none":
        return Held(tree)
    return _made(tree, SCHEMES[word], facts, schemes.get(word), dtype)


def _made(
    tree: ModelTree, scheme: Scheme, facts: Facts, support: SchemeSupport | None, dtype: str | None
) -> Held | NotHeld:
    if support is None or not support.made:
        return NotHeld(f"`{scheme.name}` is not made while a model is loaded", planned=False)
    unmet = lacks(support.kept, facts) or wrong_version(support.packages, facts)
    if unmet:
        return NotHeld(f"`{scheme.name}` cannot be made here: {unmet}", by_host=True)
    settings = {key: setting.default for key, setting in scheme.settings.items()} | dict(scheme.when)
    own = dtype or tree.default_dtype or "float32"
    making = {key: own if value is DTYPE else value for key, value in support.making.items()}
    settings |= {key: making[key] for key in settings.keys() & making.keys()}
    takes = support.making_takes
    # Where the CPU runs the model there is no accelerator beside which something is kept.
    beside = frozenset[str]() if facts.kind == "cpu" else support.beside_made
    whole = support.whole_beside and bool(beside)
    what = "packed", scheme.name, facts.kind, dtype, takes  # the same on hosts that differ in all else
    packed = tree.remembered(what, lambda: packed_tree(tree, scheme, settings, facts.kind, dtype, takes, whole=whole))
    if packed is None:
        return NotHeld(f"`{scheme.name}` converts no module of `{tree.name}`")
    return Held(
        packed,
        making,
        support.making_beside,
        beside,
        support.because_made or support.because,
        scheme.name,
        assumed=assumed_of(support.packages, facts),
        skips_elsewhere=whole,
        left=_bytes_of(tree, left_experts(tree, scheme, settings), dtype),
    )


def _stored(
    tree: ModelTree, quantization: Quantization, facts: Facts, schemes: Mapping[str, SchemeSupport], dtype: str | None
) -> Held | NotHeld:
    scheme, support = SCHEMES.get(quantization.scheme), schemes.get(quantization.scheme)
    if scheme is None:
        return NotHeld(quantization.problem, both_figures(tree, dtype))
    if support is None or not support.stored:
        return NotHeld("", both_figures(tree, dtype), planned=False)
    settings = {"quant_method": quantization.method, **dict(quantization.settings)}
    if support.reads is not None:
        return _read(tree, Reading(settings, facts, dtype or tree.default_dtype or "float32"), support, scheme, dtype)
    misread = _misread(tree, quantization, scheme, support, dtype)
    if misread is not None:
        return misread
    wrong = wrong_version(support.packages, facts)
    unmet = "it is loaded in no other way" if support.kept is None else lacks(support.kept, facts)
    if tree.incomplete_reason is not None and not unmet and not wrong:
        return Held(tree, scheme=scheme.name, assumed=assumed_of(support.packages, facts))  # its tensors as stored
    packed = None if unmet or wrong else packed_tree(tree, scheme, settings, facts.kind, dtype)
    if packed is None and not unmet:
        unmet = f"it converts no module of `{tree.name}`"
    if wrong or (packed is None and (support.otherwise == "refused" or tree.incomplete_reason is not None)):
        return NotHeld(f"`{scheme.name}` weights cannot be loaded here: {wrong or unmet}", both_figures(tree, dtype))
    if packed is None:
        return _dequantized(tree, scheme, quantization, support, facts, unmet, dtype)
    return Held(
        packed,
        None if support.keeping is None else support.keeping(settings),
        beside=support.beside,
        because=support.because,
        scheme=scheme.name,
        assumed=assumed_of(support.packages, facts),
        left=_bytes_of(tree, left_experts(tree, scheme, settings), dtype),
        several=support.several,
        instead=None
        if support.several
        else _dequantized(tree, scheme, quantization, support, facts, support.because, dtype),
    )


def _read(
    tree: ModelTree, reading: Reading, support: SchemeSupport, scheme: Scheme, dtype: str | None
) -> Held | NotHeld:
    """Return a model as a consumer holds it that reads its scheme in a way of its own, or why it does not."""
    facts, figures = reading.facts, both_figures(tree, dtype)
    if is_rocm(facts):
        return NotHeld("what its kernels for ROCm keep is not known", figures, planned=False)
    unmet = lacks(support.kept, facts)
    if unmet:
        known = facts.capability is not None or facts.kind != "cuda"
        hint = "plan for a host whose cards have it" if known else "say it of the host's cards: `capability = [8, 0]`"
        return NotHeld(f"`{scheme.name}` weights cannot be loaded here: {unmet}", figures, by_host=True, help=hint)
    if support.dtypes and reading.dtype not in support.dtypes:
        wanted = " or ".join(f"`{one}`" for one in sorted(support.dtypes))
        hint = f'`workload.dtype = "{min(support.dtypes)}"`'
        return NotHeld(f"it computes beside them in {wanted}, not in `{reading.dtype}`", figures, help=hint)
    row = support.reads(reading) if support.reads is not None else scheme
    if isinstance(row, NotRead):
        return NotHeld(row.reason, figures, help=row.help, planned=row.planned)
    paths = converted(tree, row, reading.settings)
    stored = None if tree.quantization is None else tree.quantization.plain
    plain = next((path for path in stored or () if path in paths), None)
    if plain is not None:
        return NotHeld(f"it stores `{plain}` as it is", figures, planned=False)
    if not paths:
        return NotHeld(f"it converts no module of `{tree.name}`", figures, planned=False)
    uneven = undivided(tree, row, paths, facts)
    if uneven:
        hint = "take a number of devices that divides it, or stages of whole layers"
        return NotHeld(uneven, figures, help=hint, planned=False)
    packed = packed_tree(tree, row, reading.settings, facts.kind, dtype, facts=facts)
    assert packed is not None  # there are paths
    return Held(packed, beside=support.beside, scheme=scheme.name)


def _misread(
    tree: ModelTree, quantization: Quantization, scheme: Scheme, support: SchemeSupport, dtype: str | None
) -> NotHeld | None:
    """Return why a library would not find the weights that it looks for, or not run them; `None` where it does."""
    settings, figures = dict(quantization.settings), both_figures(tree, dtype)
    key = next((key for key in scheme.skips if settings.get(key) is not None), next(iter(scheme.skips), ""))
    refused = "" if support.refuses is None else support.refuses(settings)
    if refused:
        return NotHeld(refused, figures)
    tied = None if support.runs_tied else tied_module(tree, scheme, settings)
    if tied is not None:
        reason = (
            f"`{key}` does not name `{tied}`, whose weight is tied, so that the library would convert the module alone"
        )
        return NotHeld(reason, figures, help=f"add `{tied}` to `{key}` in its `config.json`")
    plain, paths = frozenset(quantization.plain or ()), converted(tree, scheme, settings)
    wrong = next((path for path in tree.index if path in plain and path in paths), None)
    if wrong is not None:
        hint = f"add `{wrong}`, and all others that it stores so, to `{key}` in its `config.json`" if key else ""
        return NotHeld(f"it stores `{wrong}` as it is, and the library would convert it", figures, help=hint)
    experts = left_experts(tree, scheme, settings)
    if experts and not scheme.plain_too and (scheme.packs_experts if quantization.plain is None else experts - plain):
        reason = "it stores its experts quantised one by one, and the library keeps those of a layer as one full weight"
        anew = f'load it as it was before, with `loading.quantization = "{scheme.name}"`'
        hint = "plan it for an engine that keeps them so, such as `vllm`" if scheme.packs_experts else anew
        return NotHeld(reason, figures, help=hint)
    name, path = outdated_skip(tree, scheme, settings) if quantization.plain is None else ("", "")
    if name:
        reason = f"`{key}` names `{name}`, by which the library leaves nothing of `{path}`: it may be stored either way"
        return NotHeld(reason, figures, help="plan the folder of the checkpoint, which tells", planned=False)
    return None


def _bytes_of(tree: ModelTree, paths: frozenset[str], dtype: str | None) -> int:
    chosen = (module for module in tree.modules if module.path in paths)
    return sum(tensor.bytes_as(dtype) for module in chosen for tensor in module.tensors)


def _dequantized(
    tree: ModelTree,
    scheme: Scheme,
    quantization: Quantization,
    support: SchemeSupport,
    facts: Facts,
    why: str,
    dtype: str | None,
) -> Held:
    perhaps = converted_paths(tree, quantization)  # what is dequantised cannot be read from the checkpoint as it is
    paths = converted(tree, scheme, dict(quantization.settings))
    takes = support.dequantizing_takes

    def plain(module: Module) -> Module:
        tensors = module.tensors
        if module.path in paths:
            tensors = tuple(
                replace(tensor, transient=max(tensor.transient, transient_of(tensor, takes, dtype)))
                for tensor in tensors
            )
        return replace(module, in_place=module.in_place and module.path not in perhaps, tensors=tensors)

    assumed = assumed_of(support.packages, facts) if support.kept is None else ()
    held = tree.resized(tuple(map(plain, tree.modules)))
    beside, because = support.beside_dequantized, support.because
    return Held(held, support.dequantizing, beside=beside, because=because, dequantized=why, assumed=assumed)


def both_figures(tree: ModelTree, dtype: str | None = None) -> tuple[str, ...]:
    """Return what a quantised checkpoint takes as it is stored, and dequantised, as a note."""
    quantization = tree.quantization
    stored = None if quantization is None else quantization.stored
    if tree.incomplete_reason is not None:
        size = format_size(tree.bytes_as() if stored is None else stored)
        return (f"it takes {size} as stored; dequantised it is not known: {tree.incomplete_reason}",)
    full = f"{format_size(tree.bytes_as(dtype))} dequantised to {dtype or tree.default_dtype or 'float32'}"
    if stored is None and quantization is not None and quantization.scheme:
        scheme = SCHEMES[quantization.scheme]
        if scheme.packs_experts:
            scheme = replace(scheme, experts=True)
        packed = packed_tree(tree, scheme, dict(quantization.settings), "", dtype)
        stored = None if packed is None else packed.bytes_as(dtype)
    return (f"it would take {full}" if stored is None else f"it takes {format_size(stored)} as stored, {full}",)
