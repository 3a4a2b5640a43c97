"""Writing a model as TOML, repeated blocks once.

Owns the way back from a `ModelTree` to the text that `devpolicy._core.model.model_file` reads: which siblings are
equal, which ranges they make. It decides nothing about what a key means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from devpolicy._core.loading.value import Loading, as_argument
from devpolicy._core.model.ranges import LARGEST_NUMBER, join
from devpolicy._core.model.tree import Activated, KVCache, ModelTree, Module, Tensor
from devpolicy._core.toml.document import quote, write_key

T = TypeVar("T", bound=KVCache | Activated)


@dataclass(frozen=True, slots=True)
class _Run:
    """Equal siblings `first` to `last` by number, or one module; `pattern` is how they are written."""

    position: int
    pattern: str


def write(tree: ModelTree) -> str:
    """Return the model as TOML 1.0 text, a line for each module. Equal siblings that are counted up are one range."""
    lines = [f"name = {quote(tree.name)}"]
    if tree.dtype is not None:
        lines.append(f"dtype = {quote(tree.dtype)}")
    if tree.no_split:
        lines.append(f"no_split = {_list(sorted(tree.no_split))}")
    activation, logits = tree.activation_elements_per_token, tree.logits_elements
    for key, value in (("context", tree.context), ("activation", activation), ("output", logits)):
        if value:
            lines.append(f"{key} = {value}")
    if tree.beams != 1:
        lines.append(f"beams = {tree.beams}")
    if tree.format != "safetensors":
        lines.append(f"format = {quote(tree.format)}")
    if tree.incomplete_reason is not None:
        lines.append(f"partial = {quote(tree.incomplete_reason)}")
    if tree.metadata:
        lines.append(f"facts = {_table((key, quote(text)) for key, text in tree.metadata)}")
    if tree.loading != Loading():
        lines.append(f"loading = {_loading(tree.loading)}")
    if tree.config:
        lines.append(f"config = {_literal(tree.config)}")
    if tree.ties:
        lines += _block("ties", map(_list, tree.ties))
    lines += _block("module", (_module(tree.modules[run.position], run.pattern, tree.dtype) for run in _runs(tree)))
    if tree.kv_cache:
        lines += _block("kv_cache", (_cache(cache, pattern) for pattern, cache in _ranges(tree.kv_cache)))
    if tree.reads:
        lines += _block("reads", (_reads(entry, pattern) for pattern, entry in _ranges(tree.reads)))
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """Return a text that is full of double quotes as TOML, without escapes where it can be."""
    return f"'{text}'" if text.isprintable() and "'" not in text else quote(text)


def _block(key: str, entries: Iterable[str]) -> list[str]:
    return ["", f"{key} = [", *(f"    {entry}," for entry in entries), "]"]


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{ {', '.join(f'{write_key(key)} = {value}' for key, value in pairs)} }}"


def _module(module: Module, pattern: str, dtype: str | None) -> str:
    pairs = [("path", quote(pattern)), ("class", quote(module.class_name))]
    if module.tensors:
        default = dtype or "float32"
        pairs.append(("tensors", _table((tensor.name, _tensor(tensor, default)) for tensor in module.tensors)))
    if not module.in_place:
        pairs.append(("in_place", "false"))
    return _table(pairs)


def _loading(loading: Loading) -> str:
    pairs = [("architecture", quote(loading.architecture))] if loading.architecture is not None else []
    for key, given in (("attention", loading.attention), ("experts", loading.experts)):
        argument = as_argument(given)
        if argument is not None:
            text = quote(argument) if isinstance(argument, str) else _table((part, quote(word)) for part, word in given)
            pairs.append((key, text))
    if loading.notes:
        pairs.append(("notes", _list(loading.notes)))
    return _table(pairs)


def _cache(cache: KVCache, pattern: str) -> str:
    pairs = [("module", quote(pattern)), ("values", str(cache.values))]
    if cache.window is not None:
        pairs.append(("window", str(cache.window)))
    if cache.dtype is not None:
        pairs.append(("dtype", quote(cache.dtype)))
    return _table(pairs)


def _reads(entry: Activated, pattern: str) -> str:
    pairs = [("module", quote(pattern))]
    if entry.num_experts != 1:
        pairs += [("parts", str(entry.experts_per_token)), ("of", str(entry.num_experts))]
    if entry.per_request:
        pairs.append(("once", "true"))
    return _table(pairs)


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quote, texts))}]"


def _tensor(tensor: Tensor, default: str) -> str:
    extra = []
    if tensor.dtype != default:
        extra.append(f"dtype = {quote(tensor.dtype)}")
    if not tensor.persistent:
        extra.append("persistent = false")
    elif tensor.buffer:
        extra.append("buffer = true")
    if tensor.float32_in:
        extra.append(f"float32_in = {quote(tensor.float32_in)}")
    if tensor.merged:
        extra.append("merged = true")
    shape = f"[{', '.join(map(str, tensor.shape))}]"
    return f"{{ shape = {shape}, {', '.join(extra)} }}" if extra else shape


def _number(name: str) -> int | None:
    """Return the number that a name is, as a range would write it."""
    if not (name.isascii() and name.isdigit()) or (name[0] == "0" and name != "0") or len(name) > 9:
        return None
    return int(name)


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
            _Run(members[0][0], join(run.pattern, _written([name for _, name in members])))
            for members in _equal_siblings(names, shapes)
        ]
        waiting += reversed(inside)


def _equal_siblings(names: list[tuple[int, str]], shapes: list[int]) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of `(position, name)`: equal siblings whose names count up by one are one group."""
    group: list[tuple[int, str]] = []
    for position, name in names:
        if group:
            before, number = _number(group[-1][1]), _number(name)
            follows = before is not None and number == before + 1
            if not (follows and shapes[position] == shapes[group[-1][0]]):
                yield group
                group = []
        group.append((position, name))
    if group:
        yield group


def _written(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{names[0]}..{names[-1]}}}"


def _ranges(entries: Sequence[T]) -> Iterator[tuple[str, T]]:
    """Yield `(pattern, entry)`: consecutive equal entries whose modules differ in one number, counting up, are one."""
    at = 0
    while at < len(entries):
        first, end = entries[at], at + 1
        parts = first.module.split(".")
        pattern = first.module
        for place, part in enumerate(parts):
            number = _number(part) if part else None
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
                pattern = ".".join([*parts[:place], f"{{{number}..{number + count - 1}}}", *parts[place + 1 :]])
        yield pattern, first
        at = end
