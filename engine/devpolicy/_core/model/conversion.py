"""Which modules a scheme converts, by its library's own rule.

Owns that choice: the classes of modules, the lists that leave some, the blocks, and tied weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
        if module.path in paths and is_matrix(tensor)
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
