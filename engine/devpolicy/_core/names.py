"""What policies, models, hosts and fleets are called.

Owns the one rule for the names of all four. A name that ships comes first, so that it means the same in every folder;
else it is a path, from the folder of whoever wrote it; and where there is neither, the error says which name was likely
meant, or what the name is instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from devpolicy._core.errors import DevPolicyError, Diagnostic, Place
from devpolicy._core.files import kind_of
from devpolicy._core.shipped import shipped_files
from devpolicy._core.toml.document import Document
from devpolicy._core.toml.tables import did_you_mean, suggest

Kind = Literal["policy", "model", "host", "fleet"]

_FOLDERS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "policy": (("policy",),),
    "model": (("fixtures", "models"),),
    "host": (("fixtures", "hosts"), ("fixtures", "hosts", "faulty")),
    "fleet": (("fixtures", "fleets"),),
}
_NONE: dict[Kind, str] = {
    "policy": "there is no policy",
    "model": "there is no model, file or folder",
    "host": "no host is named",
    "fleet": "no fleet is named",
}
_SIGNS: dict[Kind, tuple[tuple[str, type], ...]] = {
    "policy": (("prefer", object), ("extends", object), ("offload", dict), ("rule", list)),
    "model": (("module", list),),
    "host": (("memory", str), ("memory", int), ("accelerator", list)),
    "fleet": (("node", dict),),
}
"""Keys, with the types of their values, that only the files of one kind have at the top."""
_ENDINGS = (".gguf", ".onnx", ".json", ".safetensors")
_SHORTEST, _MOST = 2, 4
"""Characters of what is no beginning of a name yet, and names that a help line shows."""
ORDER = "the order is policy, model, host; or by name: `model=` and `host=`, `--model` and `--host`"


def shipped_names(kind: Kind) -> dict[str, Traversable]:
    """Return what ships of one kind as `{name: file}`; those of a folder inside, such as `faulty/…`, come last."""
    found: dict[str, Traversable] = {}
    for folder, *parts in _FOLDERS[kind]:
        prefix = "".join(f"{part}/" for part in parts[1:])
        found |= {prefix + stem: file for stem, file in shipped_files(folder, *parts).items()}
    return found


def is_path(name: str) -> bool:
    """Whether text is written as a path is, whatever there is."""
    return "/" in name or "\\" in name or name.endswith(".toml")


def beside(kind: Kind, name: str, folder: str | Path | None, error: type[DevPolicyError]) -> str:
    """Return a name that ships as it is, else its path from the folder of whoever wrote it, where something is there.

    What ends in `.toml` is a path in any case. What is behind a colon names a part of a file, and is no part of its
    path. What is neither may be known elsewhere, as a hub's models are, and is returned as it is.
    """
    if name in shipped_names(kind):
        return name
    path = Path(folder or ".") / name
    there = any(kind_of(one, error) is not None for one in (path, path.with_name(path.name.partition(":")[0])))
    return str(path) if there or name.endswith(".toml") else name


def likely(name: str, known: Iterable[str]) -> str:
    """Return the help for a name that nothing has: the one that was likely meant, else all."""
    names = list(known)
    # `ecc-on-query` was meant as `faulty/ecc-on-query`, which is not close as letters go.
    inside = [other for other in names if other.rpartition("/")[2] == name]
    if inside:
        return f"did you mean `{inside[0]}`?"
    # `llama3` is the beginning of several, which are close to it in no other way.
    begins = [other for other in names if _letters(other).startswith(_letters(name)) and len(name) > _SHORTEST]
    if begins and not suggest(name, names):
        return f"did you mean {', '.join(f'`{one}`' for one in begins[:_MOST])}{', …' * (len(begins) > _MOST)}?"
    return did_you_mean(name, names)


def _letters(name: str) -> str:
    """Return the letters and digits of a name."""
    return "".join(filter(str.isalnum, name.casefold()))


def of_another_kind(kind: Kind, name: str) -> Diagnostic | None:
    """Return the finding of a name that ships as something else than what is expected, `None` where it does not."""
    other: Kind | None = next((one for one in _FOLDERS if one != kind and name in shipped_names(one)), None)
    return None if other is None else not_a(kind, f"`{name}`", other)


def file_of_another_kind(kind: Kind, document: Document) -> Diagnostic | None:
    """Return the one finding of a file that is of another kind than what is expected, `None` where none shows it.

    Every key of such a file would be an error, and none of them the mistake.
    """
    if _sign(kind, document) is not None:
        return None
    for other in _SIGNS:
        sign = _sign(other, document)
        if sign is not None:
            place = document.place((sign,), "key")
            return replace(not_a(kind, f"`{document.source}`", other), place=place, label=f"a key of a {other}")
    return None


def _sign(kind: Kind, document: Document) -> str | None:
    data = document.data
    return next((key for key, type_ in _SIGNS[kind] if key in data and isinstance(data[key], type_)), None)


def not_a(kind: Kind, what: str, other: Kind) -> Diagnostic:
    """Return the finding of something that is of another kind than what is expected."""
    return Diagnostic("DP102", f"{what} is a {other}, and a {kind} is expected", help=ORDER)


def unknown(
    kind: Kind, name: str, own: Collection[str] = (), *, place: Place | None = None, label: str = "", hint: str = ""
) -> Diagnostic:
    """Return the finding of a name that nothing has. `own` are names beside those that ship; `hint` ends the help."""
    found = of_another_kind(kind, name)
    if found is None:
        help_ = likely(name, [*own, *shipped_names(kind)])
        if (is_path(name) or name.endswith(_ENDINGS)) and not help_.startswith("did you mean"):
            help_ = ""  # whoever writes a path does not look for a name
        found = Diagnostic("DP202", f"{_NONE[kind]} `{name}`", help=f"{help_}\n{hint}".strip())
    return replace(found, place=place, label=label)
