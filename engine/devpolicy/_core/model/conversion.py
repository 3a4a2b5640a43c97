"""Which modules a scheme converts, by its library's own rule.

Owns that choice: the classes of modules, the lists that leave some, the blocks, and tied weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from devpolicy._core.loading.quantization import Quantization, Scheme
from devpolicy._core.loading.schemes import SCHEMES
from devpolicy._core.loading.skips import Anywhere, Skips, names_module
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import FLOATING, ModelTree, Module, Tensor

_BLOCKS = (
    *("transformer.h", "model.decoder.layers", "gpt_neox.layers", "model.layers", "model.language_model.layers"),
    *("h", "decoder.layers", "layers"),
)
"""Where `optimum` looks for the blocks of a model, in this order."""


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


def stored_plain(
    quantization: Quantization, tree: ModelTree, stored: Mapping[str, tuple[tuple[int, ...], str, bool]]
) -> Quantization:
    """Return how a checkpoint is quantised, with what it stores as it is although a scheme may convert it.

    `stored` are the shapes and dtypes of what is stored, by the names in the model, and whether loading converts it.
    Where it stores all as it is, its configuration is wrong.
    """
    scheme = SCHEMES.get(quantization.scheme)
    if scheme is None or scheme.plain_too or not scheme.modules_known:
        return quantization
    settings = dict(quantization.settings)
    perhaps = converted(tree, replace(scheme, experts=True), settings)
    names = [
        (module.path, join(module.path, tensor.name), tensor)
        for module in tree.modules
        for tensor in module.tensors
        if module.path in perhaps and is_matrix(tensor)
    ]
    plain = [(path, name) for path, name, one in names if name in stored and _is_plain(one, *stored[name])]
    paths = {path for path, _ in plain}
    wrong = next((name for path, name in plain if path in converted(tree, scheme, settings)), "")
    if wrong and len(paths) == len({path for path, *_ in names}):
        problem = f"its `config.json` says so, and it stores `{wrong}` as it is: take `quantization_config` out"
        return replace(quantization, scheme="", settings=(), problem=problem)
    return replace(quantization, plain=tuple(path for path in tree.index if path in paths))


def _is_plain(tensor: Tensor, shape: tuple[int, ...], dtype: str, made: bool) -> bool:
    return dtype in FLOATING and (made or tensor.shape == shape)


def as_named(quantization: Quantization, rename: Callable[[str], str]) -> Quantization:
    """Return a quantisation whose list holds names of modules, where it holds those of stored weights."""
    scheme = SCHEMES.get(quantization.scheme)
    if scheme is None or not scheme.skips_renamed:
        return quantization
    settings = (
        (key, tuple(map(rename, value)) if key in scheme.skips and value else value)
        for key, value in quantization.settings
    )
    return replace(quantization, settings=tuple(settings))


def packed_as(quantization: Quantization | None) -> tuple[str, ...]:
    """Return how the names end under which a checkpoint stores the parts of a weight."""
    scheme = None if quantization is None else SCHEMES.get(quantization.scheme)
    return () if scheme is None else scheme.packed_as


def left_experts(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the fused experts that a scheme would convert if it converted experts, and does not."""
    if scheme.experts or not scheme.modules_known:
        return frozenset()
    return converted(tree, replace(scheme, experts=True), settings) - converted(tree, scheme, settings)


def outdated_skip(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return a listed name that is a part of a converted module's path and does not leave it, and that path.

    Older versions left it, so that the checkpoint may store it either way. Both are empty where there is none.
    """
    listed = next((settings[key] for key in scheme.skips if settings.get(key) is not None), None) or ()
    if not listed or scheme.skips_by != "module" or scheme.skips_renamed:
        return "", ""
    paths = converted(tree, scheme, settings)
    for name in listed:
        found = next((path for path in tree.index if path in paths and f".{name}." in path), None)
        if found is not None:
            return name, found
    return "", ""


def converted(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the paths of the modules that a scheme converts, by its library's own rule."""
    tied = {name for group in tree.ties for name in group[1:]}
    return frozenset(
        module.path
        for module in _chosen(tree, scheme, settings)
        if not any(join(module.path, tensor.name) in tied for tensor in module.tensors)
    )


def tied_module(tree: ModelTree, scheme: Scheme, settings: Mapping[str, Any]) -> str | None:
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


def is_matrix(tensor: Tensor) -> bool:
    """Return whether a tensor of a converted module is what is packed: its weight, or the weights of its experts."""
    return not tensor.buffer and (len(tensor.shape) == 3 or (len(tensor.shape) == 2 and tensor.name == "weight"))
