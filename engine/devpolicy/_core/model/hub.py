"""Models of the hub, read by their headers: `hf://org/name@revision/file.gguf`.

Owns the names, which parts of which files are read, and the cache. What is kept of a model is a checkpoint folder whose
weights end behind their headers, and beside it the sizes that they have on the hub. No weight is fetched.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import is_file, read_bytes, read_json, shown
from devpolicy._core.model.folders import mark_of, other_kind
from devpolicy._core.model.gguf import is_projector, name_of, parts_of, tree_of, with_projectors
from devpolicy._core.model.gguf_header import read_gguf_header
from devpolicy._core.model.headers import FULL_SIZES
from devpolicy._core.model.hub_files import Hub, Repository
from devpolicy._core.model.limits import (
    LARGEST_CONFIG,
    LARGEST_HEADER,
    LARGEST_INDEX,
    LARGEST_REFERENCE,
    MOST_SHARDS,
)
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.threads import map_in_threads

SCHEME = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([^@]+?))?(?:/([^/]+\.gguf))?", re.ASCII | re.DOTALL)
_INDEX, _SINGLE, _CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
_BESIDE = ("generation_config.json", "hf_quant_config.json")
_FIRST = 1 << 14  # bytes of a shard that are read at once: most headers are smaller
_GGUF_CHUNK = 1 << 18
_AT_ONCE = 8
_READING = 2  # raised where GGUF files come to be read differently, so that what was kept is not found

Progress = Callable[[int, int], None]
"""Is told how many files of how many were read."""
Announce = Callable[[int, int], None]
"""Is told before anything is read how many files a model has and how many bytes they are: their headers are read."""


class HubName(NamedTuple):
    """A model of the hub as a user names it."""

    repository: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read a name with its scheme. Raises `ModelError`, DP104."""
        found = _NAME.fullmatch(text)
        if found is None or ".." in text:
            help_ = "write `hf://organisation/name`, `hf://organisation/name@revision` or `hf://organisation/name/file.gguf`"
            raise ModelError(Diagnostic("DP104", f"`{shown(text)}` names no model of the hub", help=help_))
        return cls(*found.groups())


def from_hub(
    text: str, *, fetch: bool = True, progress: Progress | None = None, announce: Announce | None = None
) -> ModelTree:
    """Read a model of the hub by its headers, or what an earlier reading kept. Raises `ModelError`.

    `fetch` allows the network; without it, and with `HF_HUB_OFFLINE`, only what was read before is found.
    """
    name = HubName.parse(text)
    cache = _Cache(cache_folder() / name.repository.replace("/", "--"))
    hub = Hub() if fetch else None
    if hub is None or hub.offline:
        reason = "`HF_HUB_OFFLINE` is set" if hub is not None else "a policy's file does not reach for the network"
        commit = cache.commit(name.revision)
        if commit is None:
            help_ = f"read it once with a connection: `devpolicy model show {shown(text)}`"
            message = f"`{shown(text)}` was not read before, and {reason}"
            raise ModelError(Diagnostic("DP204", message, help=help_))
        return _from_cache(cache, commit, name)
    repository = hub.repository(name.repository, name.revision)
    if not cache.holds(repository.commit, name.file):
        nothing: Progress = lambda done, of: None  # noqa: E731
        _fetch(hub, repository, name, cache, progress or nothing, announce or nothing)
    cache.note(name.revision, repository.commit)
    return _from_cache(cache, repository.commit, name)


def cache_folder() -> Path:
    """Return where headers are kept: below `XDG_CACHE_HOME`, which is `~/.cache` by default."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "devpolicy" / "hub"


def _from_cache(cache: _Cache, commit: str, name: HubName) -> ModelTree:
    short = name.repository.rpartition("/")[2]
    kept = cache.gguf(commit, name.file)
    if kept is not None:
        from devpolicy._core.model.model_file import parse

        return parse(read_bytes(kept, LARGEST_INDEX), str(kept))
    from devpolicy._core.model.checkpoint import from_checkpoint

    if name.file is not None or not cache.holds(commit, None):
        message = f"`{name.file or name.repository}` was not read before"
        raise ModelError(Diagnostic("DP204", message, help="read it once with a connection"))
    folder = cache.folder / commit
    try:
        return replace(from_checkpoint(folder), name=short)
    except ModelError as refused:
        raise ModelError([_named(one, folder, name.repository) for one in refused.diagnostics]) from None


def _named(one: Diagnostic, folder: Path, repository: str) -> Diagnostic:
    """Return a finding of a model's kept headers with its name on the hub: that is what people asked for."""
    kept = shown(folder)
    notes = tuple(note.replace(kept, repository) for note in one.notes)
    help_ = one.help and one.help.replace("timm.create_model(name)", f'timm.create_model("hf-hub:{repository}")')
    return replace(
        one, message=one.message.replace(kept, repository), notes=notes, help=help_ and help_.replace(kept, repository)
    )


@dataclass
class _Cache:
    """What is kept of one model: a folder for each commit, and the commits that revisions named."""

    folder: Path
    written: list[str] = field(default_factory=list)

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a revision named when it was last read."""
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision
        note = self._note(revision)
        text = read_bytes(note, LARGEST_REFERENCE).decode("ascii", "replace") if is_file(note) else ""
        return text if re.fullmatch(r"[0-9a-f]{7,64}", text) else None

    def note(self, revision: str | None, commit: str) -> None:
        """Keep which commit a revision named."""
        self.write(self._note(revision), commit.encode())

    def _note(self, revision: str | None) -> Path:
        return self.folder / "refs" / re.sub(r"[^\w.-]", lambda sign: f"%{ord(sign[0]):x}", revision or "main")

    def holds(self, commit: str, file: str | None) -> bool:
        """Whether all that is needed of a commit is here."""
        return self.gguf(commit, file) is not None or (file is None and is_file(self.folder / commit / FULL_SIZES))

    def gguf(self, commit: str, file: str | None) -> Path | None:
        """Return the tree that is kept of a GGUF model, `None` where none is."""
        kept = self.folder / commit / f"{file or 'model.gguf'}.{_READING}.toml"
        return kept if is_file(kept) else None

    def write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all: readers beside this one never see half of it."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except OSError as broken:
            message = f"cannot keep headers in `{shown(path.parent)}`: {broken.strerror or broken}"
            raise ModelError(Diagnostic("DP109", message, help="set `XDG_CACHE_HOME` to a folder")) from None


def _fetch(
    hub: Hub, repository: Repository, name: HubName, cache: _Cache, progress: Progress, announce: Announce
) -> None:
    sizes, folder = repository.sizes, cache.folder / repository.commit
    gguf = name.file or (_only_gguf(repository) if _CONFIG not in sizes or not _weights(sizes) else None)
    if gguf is not None:
        tree = _gguf(hub, repository, gguf, progress, announce)
        cache.write(folder / f"{name.file or 'model.gguf'}.{_READING}.toml", tree.to_toml().encode())
        return
    if _CONFIG not in sizes:
        raise _of_another_library(hub, repository) or _lacks(repository, f"no `{_CONFIG}` and no GGUF file")
    for file, limit in (
        (_CONFIG, LARGEST_CONFIG),
        (_INDEX, LARGEST_INDEX),
        *((one, LARGEST_CONFIG) for one in _BESIDE),
    ):
        if file in sizes:
            if sizes[file] > limit:
                raise _lacks(repository, f"a `{file}` of {sizes[file]:,} bytes, and the limit is {limit:,}")
            cache.write(folder / file, hub.read(repository, file, 0, limit))
    shards = _shards(repository, folder)
    announce(len(shards), sum(sizes[shard] for shard in shards))
    headers = map_in_threads(lambda shard: _header(hub, repository, shard), shards, _AT_ONCE)
    for done, (shard, header) in enumerate(zip(shards, headers, strict=True), start=1):
        cache.write(folder / shard, header)
        progress(done, len(shards))
    # Written last: it says that all is here.
    cache.write(folder / FULL_SIZES, json.dumps({shard: sizes[shard] for shard in shards}).encode())


def _weights(sizes: Iterable[str]) -> bool:
    return any(file.endswith((".safetensors", ".bin")) for file in sizes)


def _lacks(repository: Repository, what: str) -> ModelError:
    holds = ", ".join(f"`{shown(file)}`" for file in sorted(repository.sizes)[:8])
    note = f"it holds {holds}" if holds else "it is empty"
    return ModelError(Diagnostic("DP204", f"`{repository.name}` has {what}", notes=(note,)))


def _of_another_library(hub: Hub, repository: Repository) -> ModelError | None:
    """Return what a repository is that is no checkpoint, and what to do; `None` where that is unknown."""
    mark = mark_of(repository.sizes)
    if mark is None:
        return None
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        (folder / mark).write_bytes(hub.read(repository, mark, 0, LARGEST_CONFIG))
        found = other_kind(folder)
    if found is None:
        return None
    download = f"download it first: `hf download {repository.name} --local-dir FOLDER`"
    named = [text.replace(kept, name) for text, name in ((found.message, repository.name), (found.help, "FOLDER"))]
    return ModelError(Diagnostic("DP204", named[0], help=f"{named[1]}\n{download}"))


def _shards(repository: Repository, folder: Path) -> list[str]:
    if _INDEX in repository.sizes:
        mapped = read_json(folder / _INDEX, LARGEST_INDEX).get("weight_map")
        names = sorted({str(file) for file in mapped.values()}) if isinstance(mapped, dict) else []
    elif _SINGLE in repository.sizes:
        names = [_SINGLE]
    else:
        raise _lacks(repository, f"no `{_SINGLE}`: weights in other formats have no header that could be read alone")
    missing = [file for file in names if file not in repository.sizes]
    if missing or not names or len(names) > MOST_SHARDS:
        raise _lacks(repository, f"not all of the {len(names)} files that its index names: {shown(missing[:4])}")
    if any(Path(file).name != file or "\\" in file for file in names):
        raise _lacks(repository, "an index that names files of other folders")
    return names


def _header(hub: Hub, repository: Repository, shard: str) -> bytes:
    """Return the beginning of a safetensors file, to the end of its header."""
    begin = hub.read(repository, shard, 0, _FIRST)
    length = 8 + int.from_bytes(begin[:8], "little")
    if length > min(LARGEST_HEADER, repository.sizes[shard]):
        return begin[:8]  # what is wrong with it is told by the reader of headers
    if length > len(begin):
        begin += hub.read(repository, shard, len(begin), length - len(begin))
    return begin[:length]


def _only_gguf(repository: Repository) -> str | None:
    first = sorted({parts_of(file)[0] for file in repository.sizes if file.endswith(".gguf") and "/" not in file})
    first = [file for file in first if not is_projector(file)] or first
    if len(first) > 1:
        listed = ", ".join(f"`{shown(file)}`" for file in first[:8])
        help_ = f"name one: `{SCHEME}{repository.name}/{shown(first[0])}`"
        message = f"`{repository.name}` holds {len(first)} GGUF models: {listed}"
        raise ModelError(Diagnostic("DP204", message, help=help_))
    return first[0] if first else None


@dataclass
class _RemoteFile:
    """A file of the hub as the bytes of a header, read forward in chunks."""

    hub: Hub
    repository: Repository
    name: str
    begin: int = 0
    chunk: bytes = b""

    @property
    def size(self) -> int:
        return self.repository.sizes[self.name]

    def read(self, offset: int, length: int) -> bytes:
        end = self.begin + len(self.chunk)
        if not self.begin <= offset or offset + length > end:
            kept = self.chunk[offset - self.begin :] if self.begin <= offset < end else b""
            wanted = max(length - len(kept), _GGUF_CHUNK)
            self.begin, self.chunk = (
                offset,
                kept + self.hub.read(self.repository, self.name, offset + len(kept), wanted),
            )
        return self.chunk[offset - self.begin : offset - self.begin + length]


def _gguf(hub: Hub, repository: Repository, file: str, progress: Progress, announce: Announce) -> ModelTree:
    parts = parts_of(file)
    missing = [part for part in parts if part not in repository.sizes]
    if missing:
        raise _lacks(repository, f"no `{shown(missing[0])}`")
    announce(len(parts), sum(repository.sizes[part] for part in parts))
    headers = []
    for done, part in enumerate(parts, start=1):
        headers.append(read_gguf_header(_RemoteFile(hub, repository, part)))
        progress(done, len(parts))
    tree = tree_of(headers, name_of(file), f"{SCHEME}{repository.name}/{file}")
    return with_projectors(tree, file, repository.sizes)
