"""The tree of a model whose weights are quantised, as a consumer holds it on a host.

`quantize(tree, word, facts, schemes)` is the whole of it, a pure function: a tree as its modules are written, the word
of a scheme (`"nf4"`, or `None`), what decides on the host, and a consumer's table. It returns `Held`, the tree with the
bytes that are held then and with what loading is told, or `NotHeld` with the reason. A checkpoint that is quantised
already is what it is, whatever the word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from devpolicy._core.loading.conditions import assumed_of, is_rocm, lacks, wrong_version
from devpolicy._core.loading.quantization import (
    DTYPE,
    Facts,
    NotRead,
    Quantization,
    Reading,
    Scheme,
    SchemeSupport,
)
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.model.conversion import converted, converted_paths, left_experts
from devpolicy._core.model.form import Held, NotHeld, both_figures
from devpolicy._core.model.misread import misread
from devpolicy._core.model.packing import packed_tree, transient_of
from devpolicy._core.model.shares import undivided
from devpolicy._core.model.tree import ModelTree, Module


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
    wrong_way = misread(tree, quantization, scheme, support, dtype)
    if wrong_way is not None:
        return wrong_way
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
