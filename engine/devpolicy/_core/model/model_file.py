"""The TOML form of a model, read with every finding at once.

Owns the fields of a model file and their reading; `writer` is the way back. It depends on no framework: a model file is
what is left of a model when its weights are taken away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.files import LARGEST_FILE
from devpolicy._core.loading.dtypes import FLOAT32_IN
from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.loading.recognition import KEY, quantization_of
from devpolicy._core.loading.value import Loading, as_pairs
from devpolicy._core.model.ggml import BLOCKS
from devpolicy._core.model.limits import LARGEST_TREE, LONGEST_NAME, MOST_FILE_VALUES, MOST_FINDINGS
from devpolicy._core.model.ranges import PatternError, expand_path, expand_tree, join
from devpolicy._core.model.tree import DTYPE_BITS, Activated, Beside, Format, KVCache, ModelTree, Module, Tensor
from devpolicy._core.names import file_of_another_kind
from devpolicy._core.toml.amount import Bounds
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import (
    FLAG,
    TEXT,
    Cursor,
    Field,
    Kind,
    choice,
    integer,
    list_of,
    read_table,
    wrong_type,
)

BOUNDS = Bounds(MOST_FILE_VALUES, LARGEST_FILE)
"""A model file holds its whole configuration as one text."""

_COUNT = integer(0)


def _read_copies(value: object, cursor: Cursor) -> int | None:
    return int(value) if isinstance(value, bool) else _COUNT.read(value, cursor)


_COPIES: Kind[int] = Kind("true, false or a whole number", _read_copies, {"type": ["boolean", "integer"], "minimum": 0})
_SHAPE = list_of(_COUNT)
_DTYPE = choice(*DTYPE_BITS)
_TENSOR_FIELDS = (
    Field("shape", _SHAPE, "Sizes of the dimensions; empty for a scalar.", required=True, example="`shape = [4096]`"),
    Field(
        "dtype",
        choice(*DTYPE_BITS, *BLOCKS),
        "Torch's name of the dtype, or ggml's of a block.",
        default="the file's `dtype`, else `float32`",
    ),
    Field("buffer", FLAG, "A buffer, no parameter.", default="false"),
    Field("float32_in", choice(*filter(None, FLOAT32_IN)), "In which dtypes of the model it stays in float32."),
    Field(
        "merged",
        _COPIES,
        "Whether loading makes it on its device of what is stored otherwise: as often its bytes are beside it.",
        default="false",
    ),
    Field("kept", _COUNT, "Elements of a larger tensor that it is a part of once it is loaded.", default="0"),
    Field("persistent", FLAG, "Whether checkpoints hold it; `false` makes it a buffer.", default="true"),
    Field("follows", FLAG, "Whether it has the model's dtype although no checkpoint holds it.", default="false"),
    Field("packed", _COUNT, "Bytes that it takes with its scales, where it is quantised."),
    Field("transient", _COUNT, "Bytes beside its own that converting it takes while it is loaded.", default="0"),
)


def _read_tensors(value: object, cursor: Cursor) -> tuple[tuple[str, dict[str, Any]], ...] | None:
    if not isinstance(value, Mapping):
        wrong_type(value, cursor, "a table of shapes", "write `tensors = { weight = [4096, 4096] }`")
        return None
    before = len(cursor.findings)
    tensors = []
    for name, given in value.items():
        inside = cursor.at(name)
        if isinstance(given, Mapping):
            entry = read_table(given, inside, _TENSOR_FIELDS, what=f"tensor `{name}`", label="a key of a tensor")
            entry["buffer"] = entry.get("buffer", False) or not entry.get("persistent", True)
        else:
            entry = {"shape": _SHAPE.read(given, inside)}
        try:
            Tensor(name, entry.get("shape") or (), str(entry.get("dtype") or "float32"))
        except ModelError as broken:
            inside.error("DP104", str(broken), part="key")
        tensors.append((name, entry))
    return tuple(tensors) if len(cursor.findings) == before else None


def _read_metadata(value: object, cursor: Cursor) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, Mapping):
        wrong_type(value, cursor, "a table of strings")
        return None
    metadata = [(key, TEXT.read(text, cursor.at(key))) for key, text in value.items()]
    return tuple((key, text) for key, text in metadata if text is not None)


def _read_beside(value: object, cursor: Cursor) -> Beside | None:
    known = [one.name for one in fields(Beside)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        wrong_type(value, cursor, f"a table of {', '.join(f'`{name}`' for name in known)}")
        return None
    counts = {key: _COUNT.read(count, cursor.at(key)) for key, count in value.items()}
    return Beside(**{key: count for key, count in counts.items() if count is not None})


def _read_loading(value: object, cursor: Cursor) -> Loading | None:
    known = ("architecture", "attention", "experts", "dtypes", "notes")
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        wrong_type(value, cursor, "a table of `architecture`, `attention`, `experts`, `dtypes` and `notes`")
        return None
    try:
        architecture = value.get("architecture")
        if architecture is not None and not isinstance(architecture, str):
            raise TypeError("`architecture` is a text")
        notes = list_of(TEXT).read(value.get("notes", []), cursor.at("notes"))
        return Loading(
            architecture,
            as_pairs(value.get("attention")),
            as_pairs(value.get("experts")),
            tuple(notes or ()),
            dtypes=as_pairs(value.get("dtypes")),
        )
    except TypeError as broken:
        cursor.error("DP102", str(broken))
        return None


def _read_quantization(value: object, cursor: Cursor) -> Quantization | None:
    if not isinstance(value, Mapping) or not set(value) <= {"config", "method", "problem", "plain", "stored"}:
        wrong_type(value, cursor, "a table of `config` and `plain`, or `method` and `problem`, and `stored`")
        return None
    plain = value.get("plain")
    if plain is not None and (not isinstance(plain, list) or not all(isinstance(path, str) for path in plain)):
        wrong_type(plain, cursor.at("plain"), "a list of paths")
        return None
    stored = _COUNT.read(value["stored"], cursor.at("stored")) if "stored" in value else None
    texts = {key: TEXT.read(value[key], cursor.at(key)) for key in ("config", "method", "problem") if key in value}
    if None in texts.values():
        return None
    if "config" not in texts:
        return Quantization(texts.get("method") or "unknown", problem=texts.get("problem") or "", stored=stored)
    try:
        config = json.loads(texts["config"] or "")
    except (ValueError, RecursionError) as broken:
        cursor.at("config").error("DP101", f"this is no JSON: {broken}")
        return None
    found = quantization_of({KEY: config})
    return None if found is None else replace(found, stored=stored, plain=None if plain is None else tuple(plain))


def _read_tables(value: object, cursor: Cursor) -> list[object] | None:
    if isinstance(value, list) and value:
        return value
    wrong_type(value, cursor, "tables, at least one", "write its header with two brackets")
    return None


_TABLES: Kind[list[object]] = Kind("tables", _read_tables, {"type": "array", "items": {"type": "object"}})

MODULE_FIELDS = (
    Field("path", TEXT, "Dotted path; a part may be a range, `{0..31}`.", required=True, example='`path = "lm_head"`'),
    Field("class", TEXT, "Class name.", required=True, example='`class = "Linear"`'),
    Field("tensors", Kind("a table of tensors", _read_tensors, {"type": "object"}), "What it holds itself."),
    Field("in_place", FLAG, "Whether its weights are read from a checkpoint as they are.", default="true"),
)

KV_CACHE_FIELDS = (
    Field("module", TEXT, "Path of the module that keeps it; a part may be a range.", required=True),
    Field("values", _COUNT, "Scalars per token and sequence.", required=True),
    Field("window", _COUNT, "Tokens that are kept at most; 1 for a state that does not grow with the context."),
    Field("dtype", _DTYPE, "Torch's name of the dtype that it has in any case.", default="the workload's"),
)

READS_FIELDS = (
    Field("module", TEXT, "Path of the module; a part may be a range.", required=True),
    Field("parts", integer(1), "How many of its equal parts one token reads.", default="1"),
    Field("of", integer(1), "How many there are: the experts of a mixture.", default="1"),
    Field("once", FLAG, "Whether it runs once for a request and not for each token.", default="false"),
)

MODEL_FIELDS = (
    Field("schema", integer(), "The version of this format.", default="1"),
    Field("name", TEXT, "The model's name.", required=True, example='`name = "llama-3.1-8b"`'),
    Field("dtype", _DTYPE, "The dtype that it is loaded in."),
    Field("no_split", list_of(TEXT), "Class names of blocks that stay whole."),
    Field("context", integer(1), "The longest context in tokens."),
    Field("activation", _COUNT, "Scalars per token that the widest block holds at once."),
    Field(
        "beside",
        Kind("a table", _read_beside, {"type": "object"}),
        "Scalars that do not grow with the tokens: of each `pair` of them, of a `sequence`, and copies of experts for "
        "each token that is `decoded`.",
    ),
    Field("output", _COUNT, "Scalars that the head returns for one step: the vocabulary."),
    Field("heads", _COUNT, "Heads of attention."),
    Field("bias", choice("relative", "alibi"), "What attention adds for each pair of tokens."),
    Field("beams", integer(1), "Sequences that generation keeps for each of the batch.", default="1"),
    Field("format", choice(*get_args(Format)), "How its weights are stored.", default="`safetensors`"),
    Field("partial", TEXT, "Why the structure is not known in full."),
    Field("head", TEXT, "The path of the output embeddings, where they are neither the last module nor tied."),
    Field(
        "quantization",
        Kind("a table", _read_quantization, {"type": "object"}),
        "How its checkpoint is quantised: what its `quantization_config` says, and the bytes that it stores.",
    ),
    Field("loading", Kind("a table", _read_loading, {"type": "object"}), "How Transformers instantiates it."),
    Field("config", TEXT, "The Transformers configuration that it was read from, as JSON: what `dry-run` builds."),
    Field("ties", list_of(list_of(TEXT, least=2)), "Groups of tensors that are one tensor."),
    Field("facts", Kind("a table of text", _read_metadata, {"type": "object"}), "What else is known, for people."),
    Field("module", _TABLES, "The modules, parents first, in execution order.", required=True),
    Field("kv_cache", _TABLES, "The caches that generation keeps."),
    Field("reads", _TABLES, "The modules that one token reads only in part."),
)

_RENAMED = {
    "activation": "activation_elements_per_token", "output": "logits_elements", "partial": "incomplete_reason",
    "facts": "metadata", "heads": "attention_heads", "bias": "attention_bias",
}  # fmt: skip
"""The fields of a `ModelTree` whose names in the file are shorter."""


def parse(text: str | bytes, source: str = "<string>") -> ModelTree:
    """Read a model file. Raises `ModelError` with every finding and its place."""
    if not isinstance(text, str | bytes):
        raise ModelError(f"a model file is a text or bytes, got {type(text).__name__}")
    source = str(source)
    if isinstance(text, bytes):
        return read(Document.read(text, source, ModelError, bounds=BOUNDS))
    return read(Document(text, source, ModelError, bounds=BOUNDS))


def read(document: Document) -> ModelTree:
    """Read a parsed model file. Raises `ModelError` with every finding and its place."""
    other = file_of_another_kind("model", document)
    if other is not None:
        raise ModelError(other)
    cursor = Cursor(document, (), [])
    top = read_table(document.data, cursor, MODEL_FIELDS, what="a model file", label="a key of a model")
    if top.pop("schema", 1) != 1:
        cursor.at("schema").error("DP107", "this version of devpolicy reads model files of schema 1 only")
    if len(top.get("name", "")) > LONGEST_NAME:
        cursor.at("name").error("DP104", f"the name of a model has at most {LONGEST_NAME:,} characters")
    modules = _read_modules(top.pop("module", []), cursor.at("module"), top.get("dtype") or "float32")
    known = {module.path for module in modules}
    caches = [
        KVCache(path, entry["values"], entry.get("window"), entry.get("dtype"))
        for path, entry in _read_ranges(top.pop("kv_cache", []), cursor.at("kv_cache"), KV_CACHE_FIELDS, known)
    ]
    reads = [
        Activated(path, entry.get("parts", 1), entry.get("of", 1), entry.get("once", False))
        for path, entry in _read_ranges(top.pop("reads", []), cursor.at("reads"), READS_FIELDS, known)
    ]
    if not cursor.findings:
        _check_ties(top.get("ties", ()), cursor.at("ties"), modules)
    if cursor.findings:
        raise ModelError(cursor.findings)
    top = {_RENAMED.get(key, key): value for key, value in top.items()}
    top["no_split"] = frozenset(top.get("no_split", ()))
    try:
        return ModelTree(modules=modules, kv_cache=tuple(caches), reads=tuple(reads), **top)
    except ModelError as broken:
        raise ModelError(Diagnostic("DP104", str(broken), document.place(("module",), "key"))) from None


def _read_modules(tables: Sequence[object], cursor: Cursor, dtype: str) -> tuple[Module, ...]:
    before = len(cursor.findings)
    entries = []
    for index, table in enumerate(tables):
        if len(cursor.findings) - before >= MOST_FINDINGS:
            return ()
        entries.append(read_table(table, cursor.at(index), MODULE_FIELDS, what="[[module]]", label="a key of a module"))
    if len(cursor.findings) > before:
        return ()
    try:
        paths = expand_tree([entry["path"] for entry in entries])
    except PatternError as broken:
        cursor.at(broken.entry, "path").error("DP104", str(broken))
        return ()
    # Modules that are alike share their tensors: a tree of 100,000 modules holds few tuples.
    known: dict[tuple[Tensor, ...], tuple[Tensor, ...]] = {}
    tensors = []
    for written in entries:
        made = tuple(Tensor(name, **{"dtype": dtype, **given}) for name, given in written.get("tensors", ()))
        tensors.append(known.setdefault(made, made))
    seen: set[str] = set()
    for path, entry in paths:
        if path in seen:
            cursor.at(entry, "path").error("DP104", f"module `{path}` is written twice: two ranges overlap")
            return ()
        seen.add(path)
    return tuple(
        Module(path, entries[entry]["class"], tensors[entry], entries[entry].get("in_place", True))
        for path, entry in paths
    )


def _read_ranges(
    tables: Sequence[object], cursor: Cursor, fields: Sequence[Field], known: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each module that a list of tables names, with the table; a table with a range names several."""
    key = cursor.path[-1]
    count = 0
    for index, table in enumerate(tables):
        inside = cursor.at(index)
        if len(cursor.findings) >= MOST_FINDINGS:
            return
        if count > LARGEST_TREE:
            inside.error("DP104", f"there are more than {LARGEST_TREE} entries of `{key}`", part="key")
            return
        entry = read_table(table, inside, fields, what=f"[[{key}]]", label=f"a key of `{key}`")
        if any(field.required and field.name not in entry for field in fields):
            continue
        try:
            paths = list(expand_path(entry["module"]))
        except PatternError as broken:
            inside.at("module").error("DP104", str(broken))
            continue
        unknown = next((path for path in paths if path not in known), None)
        if unknown is not None and known:
            inside.at("module").error("DP202", f"`{unknown}` is no module of this model")
        count += len(paths)
        yield from ((path, entry) for path in paths)


def _check_ties(ties: Sequence[Sequence[str]], cursor: Cursor, modules: Iterable[Module]) -> None:
    known = {join(module.path, tensor.name) for module in modules for tensor in module.tensors} if ties else set()
    for group, names in enumerate(ties):
        for index, name in enumerate(names):
            if name not in known:
                cursor.at(group, index).error("DP202", f"`{name}` is no tensor of this model")
