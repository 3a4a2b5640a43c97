"""The tree of a model whose weights are quantised, as a consumer holds it on a host.

`quantize(tree, word, facts, schemes)` is the whole of it, a pure function: a tree as its modules are written, the word
of a scheme (`"nf4"`, or `None`), what decides on the host, and a consumer's table. It returns `Held`, the tree with the
bytes that are held then and with what loading is told, or `NotHeld` with the reason. A checkpoint that is quantised
already is what it is, whatever the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from devpolicy._core.loading.quantization import (
    DTYPE,
    Condition,
    Facts,
    NotRead,
    Package,
    Quantization,
    Reading,
    Scheme,
    SchemeSupport,
    Weight,
)
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.loading.skips import Anywhere, Skips, names_module
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import DTYPE_BITS, FLOATING, ModelTree, Module, Tensor
from devpolicy._core.sizes import format_size

_EVERYWHERE = frozenset({"cpu", "disk"})
_BLOCKS = (
    *("transformer.h", "model.decoder.layers", "gpt_neox.layers", "model.layers", "model.language_model.layers"),
    *("h", "decoder.layers", "layers"),
)
"""Where `optimum` looks for the blocks of a model, in this order."""


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
    unmet = _unmet(support.kept, facts) or _wrong_version(support.packages, facts)
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
    packed = tree.remembered(what, lambda: _packed(tree, scheme, settings, facts.kind, dtype, takes, whole=whole))
    if packed is None:
        return NotHeld(f"`{scheme.name}` converts no module of `{tree.name}`")
    return Held(
        packed,
        making,
        support.making_beside,
        beside,
        support.because_made or support.because,
        scheme.name,
        assumed=_assumed(support.packages, facts),
        skips_elsewhere=whole,
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
    wrong = _wrong_version(support.packages, facts)
    unmet = "it is loaded in no other way" if support.kept is None else _unmet(support.kept, facts)
    if tree.incomplete_reason is not None and not unmet and not wrong:
        return Held(tree, scheme=scheme.name, assumed=_assumed(support.packages, facts))  # its tensors as stored
    tied = None if support.runs_tied else _tied_module(tree, scheme, settings)
    if tied is not None:
        key = next((key for key in scheme.skips if settings.get(key) is not None), scheme.skips[0])
        reason = (
            f"`{key}` does not name `{tied}`, whose weight is tied, so that the library would convert the module alone"
        )
        hint = f"add `{tied}` to `{key}` in its `config.json`"
        return NotHeld(reason, both_figures(tree, dtype), help=hint)
    packed = None if unmet or wrong else _packed(tree, scheme, settings, facts.kind, dtype)
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
        assumed=_assumed(support.packages, facts),
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
    unmet = _unmet(support.kept, facts)
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
    if not paths:
        return NotHeld(f"it converts no module of `{tree.name}`", figures)
    uneven = undivided(tree, row, paths, facts)
    if uneven:
        hint = "take a number of devices that divides it, or stages of whole layers"
        return NotHeld(uneven, figures, help=hint, planned=False)
    packed = _packed(tree, row, reading.settings, facts.kind, dtype, facts=facts)
    assert packed is not None  # there are paths
    return Held(packed, beside=support.beside, scheme=scheme.name)


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
                replace(tensor, transient=max(tensor.transient, _takes(tensor, takes, dtype))) for tensor in tensors
            )
        return replace(module, in_place=module.in_place and module.path not in perhaps, tensors=tensors)

    assumed = _assumed(support.packages, facts) if support.kept is None else ()
    held = tree.resized(tuple(map(plain, tree.modules)))
    beside, because = support.beside_dequantized, support.because
    return Held(held, support.dequantizing, beside=beside, because=because, dequantized=why, assumed=assumed)


def _takes(tensor: Tensor, each: int, dtype: str | None) -> int:
    """Return the bytes beside a weight while it is converted; `each` was measured in a dtype of two bytes."""
    return tensor.elements * each * DTYPE_BITS[tensor.dtype_as(dtype)] // 16 if len(tensor.shape) > 1 else 0


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
        packed = _packed(tree, scheme, dict(quantization.settings), "", dtype)
        stored = None if packed is None else packed.bytes_as(dtype)
    return (f"it would take {full}" if stored is None else f"it takes {format_size(stored)} as stored, {full}",)


# Which modules a scheme converts, and what their weights take.


def converted_paths(tree: ModelTree, quantization: Quantization) -> frozenset[str]:
    """Return the paths of the modules of a checkpoint that are stored quantised, as far as its scheme is known.

    Of an unknown scheme each module that holds a matrix may be.
    """
    scheme = SCHEMES.get(quantization.scheme)
    if scheme is None or not scheme.modules_known:
        return frozenset(
            module.path for module in tree.modules if any(len(tensor.shape) > 1 for tensor in module.tensors)
        )
    return converted(tree, scheme, dict(quantization.settings))


def stored_plain(quantization: Quantization, tree: ModelTree, stored: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    """Return a weight that a checkpoint stores as it is although its scheme converts it, empty where there is none.

    `stored` are the shapes and dtypes of what is stored, by the names in the model.
    """
    scheme = SCHEMES.get(quantization.scheme)
    if scheme is None or scheme.plain_too or not scheme.modules_known:
        return ""
    paths = converted(tree, scheme, dict(quantization.settings))
    names = (
        (join(module.path, tensor.name), tensor)
        for module in tree.modules
        for tensor in module.tensors
        if module.path in paths and _is_matrix(tensor)
    )
    found = (name for name, one in names if name in stored and stored[name][0] == one.shape)
    return next((name for name in found if stored[name][1] in FLOATING), "")


def converted(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the paths of the modules that a scheme converts, by its library's own rule."""
    tied = {name for group in tree.ties for name in group[1:]}
    return frozenset(
        module.path
        for module in _chosen(tree, scheme, settings)
        if not any(join(module.path, tensor.name) in tied for tensor in module.tensors)
    )


def _tied_module(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> str | None:
    """Return a module that a scheme's rule chooses and whose weight is tied to another's, `None` where none is."""
    tied = {name for group in tree.ties for name in group}
    chosen = _chosen(tree, scheme, settings) if tied else ()
    return next((one.path for one in chosen if join(one.path, "weight") in tied), None)


def _chosen(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> Iterator[Module]:
    """Yield the modules that the library's own rule chooses, also those whose weights are tied."""
    given = next((settings[key] for key in scheme.skips if settings.get(key) is not None), None)
    names: list[str] = list(given or ())
    if scheme.default_skips == "always" or (scheme.default_skips == "unless listed" and given is None):
        names += default_skips(tree)
    skips = Anywhere(names) if scheme.skips_by == "anywhere" else Skips(names)
    tail = ".weight" if scheme.skips_by == "parameter" else ""
    within = _blocks(tree, settings) if scheme.blocks else ""
    yield from (
        module
        for module in tree.modules
        if _is_convertible(module, scheme)
        and not skips.leaves(module.path + tail)
        and not any(tensor.float32_in == "float16" for tensor in module.tensors)
        and (not within or _in_blocks(module.path, within, settings))
        and (scheme.only is None or _is_target(module, scheme, *(settings[key] or () for key in scheme.only)))
    )


def default_skips(tree: ModelTree) -> Iterator[str]:
    """Yield what quantisers leave where they are given no list: tied weights, the last module, the head."""
    repeated = set[str]()
    for group in tree.ties:
        repeated.update(group[1:])
        yield from (name.removesuffix(".weight") for name in group)
    for module in reversed(tree.modules):
        parameters = [tensor for tensor in module.tensors if not tensor.buffer]
        named = [join(module.path, tensor.name) for tensor in parameters]
        last = next((name for name in reversed(named) if name not in repeated), None)
        if last is not None:
            yield last.removesuffix(".weight")
            break
    if tree.head is not None:
        yield tree.head


def _is_convertible(module: Module, scheme: Scheme) -> bool:
    return module.class_name in scheme.classes or (scheme.experts and _is_experts(module))


def _is_experts(module: Module) -> bool:
    return module.path.rpartition(".")[2] == "experts"


def _is_target(module: Module, scheme: Scheme, targets: Iterable[str], ignored: Iterable[str]) -> bool:
    path, cls = module.path, module.class_name
    if scheme.experts and _is_experts(module):  # they were linear modules of their own when they were converted
        path, cls = f"{path}.0.gate_proj", "Linear"
    return names_module(targets, path, cls) and not names_module(ignored, path, cls)


def _blocks(tree: ModelTree, settings: Mapping[str, Any]) -> str:
    """Return the path below which all converted modules are, as `optimum` finds it.

    Where there is none, it is a path of no module for GPTQ, and for other schemes that of all.
    """
    given = settings.get("block_name_to_quantize")
    known = [given] if given is not None else [path for path in _BLOCKS if path in tree.index]
    return known[0] if known else "." * ("block_name_to_quantize" in settings)


def _in_blocks(path: str, within: str, settings: Mapping[str, Any]) -> bool:
    lists = settings.get("modules_in_block_to_quantize")
    ends = tuple(name for names in lists or () for name in names)
    return path.startswith(within) and (lists is None or path.endswith(ends))


def _packed(
    tree: ModelTree,
    scheme: Scheme,
    settings: Mapping[str, Any],
    kind: str,
    dtype: str | None,
    takes: int = 0,
    *,
    whole: bool = False,
    facts: Facts | None = None,
) -> ModelTree | None:
    """Return a tree with the bytes of its converted weights, `None` where nothing is converted.

    `takes` are the bytes for each element that making them takes for a moment; `whole` are those that are left as they
    are where they are kept elsewhere. `facts` say over how many devices each weight is divided.
    """
    paths = converted(tree, scheme, settings)
    if not paths:
        return None
    made: dict[tuple[str, int, str], tuple[Tensor, ...]] = {}
    shared = facts is not None and facts.parts > 1

    def tensors_of(module: Module) -> tuple[Tensor, ...]:
        # The readers give equal modules one tuple; how one is divided is in its name.
        key = module.class_name, id(module.tensors), module.path.rpartition(".")[2] if shared else ""
        if key not in made:
            packed = (_tensor(tensor, module, scheme, settings, kind, dtype, facts) for tensor in module.tensors)
            made[key] = tuple(
                # A `Conv1D` keeps its weight the other way round: a copy is turned first.
                replace(
                    tensor,
                    transient=_takes(tensor, takes + (2 if takes and module.class_name == "Conv1D" else 0), dtype),
                    whole_elsewhere=whole,
                )
                if tensor.packed is not None
                else tensor
                for tensor in packed
            )
        return made[key]

    return tree.resized(
        tuple(
            Module(module.path, module.class_name, tensors_of(module), module.in_place)
            if module.path in paths
            else module
            for module in tree.modules
        )
    )


def _tensor(
    tensor: Tensor,
    module: Module,
    scheme: Scheme,
    settings: Mapping[str, Any],
    kind: str,
    dtype: str | None,
    facts: Facts | None,
) -> Tensor:
    """Return a tensor of a converted module."""
    if tensor.name in scheme.float32 and all(settings.get(key) == value for key, value in scheme.float32_when.items()):
        return replace(tensor, dtype="float32", float32_in="any")
    if not _is_matrix(tensor):
        return tensor
    weight = _weight(tensor, module, scheme, DTYPE_BITS[tensor.dtype_as(dtype)] // 8, kind)
    parts = 1 if facts is None else facts.parts
    each = scheme.bytes(weight if facts is None else share(weight, join(module.path, tensor.name), facts), settings)
    return replace(tensor, packed=prod(tensor.shape[:-2]) * each * parts)


def _weight(tensor: Tensor, module: Module, scheme: Scheme, size: int, kind: str) -> Weight:
    """Return a matrix, or one of those of the experts."""
    rows, columns = tensor.shape[-2:]
    if module.class_name == "Conv1D" or scheme.inputs_first:  # which keep their weights the other way round
        rows, columns = columns, rows
    return Weight(rows, columns, size, kind)


# How a group of devices divides a weight.

_INPUTS_DIVIDED = frozenset(
    ("o_proj", "down_proj", "out_proj", "c_proj", "fc2", "w2", "wo", "dense", "dense_4h_to_h", "linear_2", "proj_out")
)
"""The names of the matrices behind attention and at the end of a block, whose inputs are divided already."""
_KEYS = frozenset(("k_proj", "v_proj"))


def share(weight: Weight, path: str, facts: Facts) -> Weight:
    """Return what one of a group's devices has of a weight; `path` is that of its tensor."""
    if facts.parts == 1:
        return weight
    name = _own_name(path)
    if name in _INPUTS_DIVIDED:
        return replace(weight, columns=-(-weight.columns // facts.parts), inputs_divided=True)
    parts = facts.key_parts if name in _KEYS else facts.parts
    return replace(weight, rows=-(-weight.rows // parts))


def undivided(tree: ModelTree, scheme: Scheme, paths: frozenset[str], facts: Facts) -> str:
    """Return why a group of devices cannot divide a weight, empty where it can divide all."""
    seen = set[tuple[str, tuple[int, ...]]]()
    for module in tree.modules if facts.parts > 1 else ():
        for tensor in module.tensors if module.path in paths else ():
            name = join(module.path, tensor.name)
            if not _is_matrix(tensor) or (_own_name(name), tensor.shape) in seen:
                continue
            seen.add((_own_name(name), tensor.shape))
            whole = _weight(tensor, module, scheme, 2, facts.kind)
            wrong = _uneven(whole, share(whole, name, facts), scheme, "gate_up" in name)
            if wrong:
                return f"{facts.parts} devices do not divide `{name}` evenly: {wrong}"
    return ""


def _uneven(whole: Weight, part: Weight, scheme: Scheme, two: bool) -> str:
    """Return why a part of a weight is not one; `two` are the outputs of two matrices in one."""
    if part.inputs_divided:
        size, all_, each = scheme.whole_inputs, whole.columns, part.columns
        what = "inputs"
    else:
        size, all_, each = scheme.whole_outputs, whole.rows // (2 if two else 1), part.rows // (2 if two else 1)
        what = "outputs"
    if size == 1 or each % size == 0:
        return ""
    return f"each would have {each:,} of its {all_:,} {what}, which is no multiple of {size}"


def _own_name(path: str) -> str:
    """Return the name by which a weight is known: its module's, or its own where a module has several."""
    *_, module, name = ("", *path.split("."))
    return module if name == "weight" else name


def _is_matrix(tensor: Tensor) -> bool:
    """Return whether a tensor of a converted module is what is packed: its weight, or the weights of its experts."""
    return not tensor.buffer and (len(tensor.shape) == 3 or (len(tensor.shape) == 2 and tensor.name == "weight"))


# What a host has.


def _unmet(condition: Condition | None, facts: Facts) -> str:
    """Return what a host lacks for a scheme, empty where it lacks nothing."""
    if condition is None:
        return ""
    if condition.capability:
        if facts.kind not in condition.capability:
            return f"`{facts.kind}` does not run it"
        least = condition.capability[facts.kind]
        if least is not None and (facts.capability is None or facts.capability < least):
            has = "not known" if facts.capability is None else ".".join(map(str, facts.capability))
            return f"it needs compute capability {'.'.join(map(str, least))}, and the least of this host is {has}"
    versions = dict(facts.versions)
    for package in condition.recorded:
        version = versions.get(package.name)
        if version is None:
            return f"it needs `{package}`, and this host does not record a version of it"
        if not _is_version(version, package.version):
            return f"it needs `{package}`, and this host has {version}"
    return ""


def _wrong_version(packages: tuple[Package, ...], facts: Facts) -> str:
    versions = dict(facts.versions)
    for package in packages:
        version = versions.get(package.name)
        if version is not None and not _is_version(version, package.version):
            return f"it needs `{package}`, and this host has {version}"
    return ""


def _assumed(packages: tuple[Package, ...], facts: Facts) -> tuple[Package, ...]:
    known = dict(facts.versions)
    return tuple(package for package in packages if package.name not in known)


def _is_version(version: str, wanted: str) -> bool:
    """Return whether a version is as wanted; what is no version is taken to be."""
    if not wanted:
        return True
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(wanted, prereleases=True).contains(Version(version))
    except InvalidVersion:
        return True
