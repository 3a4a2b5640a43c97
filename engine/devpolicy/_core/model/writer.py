"""Writing a model as TOML, repeated blocks once.

Owns the way back from a `ModelTree` to the text that `devpolicy._core.model.model_file` reads: which siblings are
equal, which ranges they make. It decides nothing about what a key means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.loading.recognition import as_config
from devpolicy._core.loading.value import Loading, as_argument
from devpolicy._core.model.ranges import join
from devpolicy._core.model.tree import Activated, KVCache, ModelTree, Module, Tensor
from devpolicy._core.ranges import LARGEST_NUMBER, number_of, write_range
from devpolicy._core.text import visible_line
from devpolicy._core.toml.writer import quote, write_pairs, write_value

T = TypeVar("T", bound=KVCache | Activated)


@dataclass(frozen=True, slots=True)
class _Run:
    """Equal siblings `first` to `last` by number, or one module; `pattern` is how they are written."""

    position: int
    pattern: str


def write(tree: ModelTree) -> str:
    """Return the model as TOML 1.0 text, a line for each module. Equal siblings that are counted up are one range."""
    top: dict[str, object] = {
        "name": tree.name,
        "dtype": tree.dtype,
        "no_split": sorted(tree.no_split),
        "context": tree.context,
        "activation": tree.activation_elements_per_token,
        "beside": {key: value for key, value in asdict(tree.beside).items() if value},
        "output": tree.logits_elements,
        "heads": tree.attention_heads,
        "bias": tree.attention_bias or None,
        "beams": None if tree.beams == 1 else tree.beams,
        "format": None if tree.format == "safetensors" else tree.format,
        "partial": tree.incomplete_reason,
        "facts": dict(tree.metadata),
        "head": tree.head,
        "quantization": None if tree.quantization is None else _quantization(tree.quantization),
        "loading": _loading(tree.loading),
    }
    lines = write_pairs((key, value) for key, value in top.items() if value not in (None, 0, [], {}))
    if tree.config:
        lines.append(f"config = {_literal(tree.config)}")
    blocks: dict[str, Iterable[object]] = {
        "ties": tree.ties,
        "module": (_module(tree.modules[run.position], run.pattern, tree.dtype) for run in _runs(tree)),
        "kv_cache": [_cache(cache, pattern) for pattern, cache in _ranges(tree.kv_cache)],
        "reads": [_reads(entry, pattern) for pattern, entry in _ranges(tree.reads)],
    }
    for key, entries in blocks.items():
        if entries:
            lines += ["", f"{key} = [", *(f"    {write_value(entry)}," for entry in entries), "]"]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """Return a text that is full of double quotes as TOML, without escapes where it can be."""
    return f"'{text}'" if visible_line(text) == text and "'" not in text else quote(text)


def _module(module: Module, pattern: str, dtype: str | None) -> dict[str, object]:
    table: dict[str, object] = {"path": pattern, "class": module.class_name}
    if module.tensors:
        table["tensors"] = {tensor.name: _tensor(tensor, dtype or "float32") for tensor in module.tensors}
    if not module.in_place:
        table["in_place"] = False
    return table


def _loading(loading: Loading) -> dict[str, object]:
    table: dict[str, object] = {} if loading.architecture is None else {"architecture": loading.architecture}
    for key, given in (("attention", loading.attention), ("experts", loading.experts)):
        argument = as_argument(given)
        if argument is not None:
            table[key] = argument if isinstance(argument, str) else dict(given)
    if loading.dtypes:
        table["dtypes"] = dict(loading.dtypes)
    if loading.notes:
        table["notes"] = loading.notes
    return table


def _quantization(quantization: Quantization) -> dict[str, object]:
    if quantization.scheme:
        table: dict[str, object] = {"config": json.dumps(as_config(quantization), sort_keys=True)}
    else:
        table = {"method": quantization.method, "problem": quantization.problem}
    if quantization.plain is not None:
        table["plain"] = list(quantization.plain)
    return table if quantization.stored is None else table | {"stored": quantization.stored}


def _cache(cache: KVCache, pattern: str) -> dict[str, object]:
    table: dict[str, object] = {"module": pattern, "values": cache.values}
    if cache.window is not None:
        table["window"] = cache.window
    if cache.dtype is not None:
        table["dtype"] = cache.dtype
    return table


def _reads(entry: Activated, pattern: str) -> dict[str, object]:
    table: dict[str, object] = {"module": pattern}
    if entry.num_experts != 1:
        table |= {"parts": entry.experts_per_token, "of": entry.num_experts}
    if entry.per_request:
        table["once"] = True
    return table


def _tensor(tensor: Tensor, default: str) -> object:
    extra: dict[str, object] = {}
    if tensor.dtype != default:
        extra["dtype"] = tensor.dtype
    if not tensor.persistent:
        extra["persistent"] = False
        if tensor.follows:
            extra["follows"] = True
    elif tensor.buffer:
        extra["buffer"] = True
    if tensor.packed is not None:
        extra["packed"] = tensor.packed
    if tensor.transient:
        extra["transient"] = tensor.transient
    if tensor.float32_in:
        extra["float32_in"] = tensor.float32_in
    if tensor.merged:
        extra["merged"] = True if tensor.merged == 1 else tensor.merged
    if tensor.kept:
        extra["kept"] = tensor.kept
    return {"shape": tensor.shape, **extra} if extra else tensor.shape


def _shapes(tree: ModelTree) -> list[int]:
    """Return a number for each subtree, the same for equal ones, whatever their own names are."""
    known: dict[tuple[object, ...], int] = {}
    result = [0] * len(tree.modules)
    names = [module.path.rpartition(".")[2] for module in tree.modules]
    for position in range(len(tree.modules) - 1, -1, -1):
        module = tree.modules[position]
        inside = tuple((names[child], result[child]) for child in tree.children(position))
        result[position] = known.setdefault((module.class_name, module.tensors, module.in_place, inside), len(known))
    return result


def _runs(tree: ModelTree) -> Iterator[_Run]:
    """Yield what is written of the tree, in pre-order."""
    shapes = _shapes(tree)
    waiting = [_Run(0, "")]
    while waiting:
        run = waiting.pop()
        yield run
        names = [(child, tree.modules[child].path.rpartition(".")[2]) for child in tree.children(run.position)]
        inside = [
            _Run(members[0][0], join(run.pattern, _written(members[0][1], members[-1][1])))
            for members in _equal_siblings(names, shapes)
        ]
        waiting += reversed(inside)


def _equal_siblings(names: list[tuple[int, str]], shapes: list[int]) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of `(position, name)`: equal siblings whose names count up by one are one group."""
    group: list[tuple[int, str]] = []
    for position, name in names:
        if group:
            before, number = number_of(group[-1][1]), number_of(name)
            follows = before is not None and number == before + 1
            if not (follows and shapes[position] == shapes[group[-1][0]]):
                yield group
                group = []
        group.append((position, name))
    if group:
        yield group


def _written(first: str, last: str) -> str:
    return first if first == last else write_range(int(first), int(last))


def _ranges(entries: Sequence[T]) -> Iterator[tuple[str, T]]:
    """Yield `(pattern, entry)`: consecutive equal entries whose modules differ in one number, counting up, are one."""
    at = 0
    while at < len(entries):
        first, end = entries[at], at + 1
        parts = first.module.split(".")
        pattern = first.module
        for place, part in enumerate(parts):
            number = number_of(part)
            if number is None:
                continue
            count = 1
            while at + count < len(entries):
                wanted = ".".join([*parts[:place], str(number + count), *parts[place + 1 :]])
                if entries[at + count] != replace(first, module=wanted):
                    break
                count += 1
            if at + count > end and number + count - 1 <= LARGEST_NUMBER:  # more digits are read as a name
                end = at + count
                pattern = ".".join([*parts[:place], write_range(number, number + count - 1), *parts[place + 1 :]])
        yield pattern, first
        at = end
