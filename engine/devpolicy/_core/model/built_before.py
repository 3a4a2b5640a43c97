"""What Transformers built of a configuration before: kept on disk, so that another process need not import it again.

Owns the question that an answer is kept under, and the form of the answer. The question holds the content of the
configuration and of the headers, the versions of the libraries, and the code that reads them: whatever changes asks
anew. A model is kept in its own file format, which is checked as every model file is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from devpolicy._core import loading
from devpolicy._core.disk_cache import model_cache
from devpolicy._core.errors import ModelError
from devpolicy._core.loading.quantization import Quantization
from devpolicy._core.model.checkpoint_mapping import Source
from devpolicy._core.model.fit import Fit
from devpolicy._core.model.headers import Stored
from devpolicy._core.model.model_file import parse
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.shipped import shipped

_DEPENDS_ON = ("devpolicy", "transformers", "torch", "accelerate", "kernels", "timm", "torchvision", "detectron2")
"""Packages whose versions may change what a configuration builds."""


class Structure(NamedTuple):
    """The modules of a configuration's model, and where each tensor of its checkpoint is loaded."""

    tree: ModelTree
    sources: tuple[Source, ...] = ()
    fit: Fit = Fit((), (), ())


def built_before(
    config: Mapping[str, Any],
    dtype: str,
    architecture: str | None,
    make: Callable[[], Structure],
    headers: Mapping[str, Stored] | None = None,
    quantization: Quantization | None = None,
) -> Structure:
    """Return what `make` returns, from an earlier process where it asked the same.

    `headers` are those of the checkpoint that the model is compared with.
    """
    stored = None if headers is None else [(key, one.dtype, one.shape) for key, one in headers.items()]
    asked = {"config": config, "dtype": dtype, "class": architecture, "headers": stored, "scheme": repr(quantization)}
    kept = model_cache()
    try:
        text = json.dumps({**asked, "by": _reader()}, sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # a table that comes from no file
        return make()
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    found = _read(kept.read(digest), headers or {})
    if found is None:
        found = make()
        kept.write(digest, _written(found))
    return found


def _written(built: Structure) -> Any:
    """Return the form of an answer. Raises `ValueError` where the format does not hold all of it."""
    text = built.tree.to_toml()
    again = parse(text)
    if (again, again.config) != (built.tree, built.tree.config):
        return None
    return {"model": text, "fit": built.fit, "sources": [_source(one) for one in built.sources]}


def _source(source: Source) -> Any:
    """Return where a tensor goes; nothing where it goes to its own name as it is, as most do."""
    plain = source.targets == (source.key,) and not source.converted
    return None if plain else [source.targets, source.converted]


def _read(kept: Any, headers: Mapping[str, Stored]) -> Structure | None:
    """Return an answer that was kept, `None` where it is not in its form."""
    try:
        model, fit, sources = kept["model"], kept["fit"], kept["sources"]
        if len(sources) != len(headers):
            return None
        return Structure(
            parse(_text(model)),
            tuple(_to_source(key, one) for key, one in zip(headers, sources, strict=True)),
            Fit(*(tuple(map(_text, names)) for names in fit)),
        )
    except (TypeError, KeyError, ValueError, ModelError):
        return None


def _to_source(key: str, kept: Any) -> Source:
    if kept is None:
        return Source(key, (key,), converted=False)
    targets, converted = kept
    return Source(key, tuple(map(_text, targets)), converted=converted is True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


@cache
def _reader() -> str:
    """Return a digest of what turns a configuration into a model: the libraries, and the code of this package."""
    digest = hashlib.sha256()
    for package in _DEPENDS_ON:
        digest.update(f"{package} {version_of(package)}\n".encode())
    here = Path(__file__).parent
    for folder in (here, Path(loading.__file__).parent):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    digest.update(shipped("fixtures").joinpath("architectures.toml").read_bytes())
    return digest.hexdigest()


def version_of(package: str) -> str:
    """Return the installed version of a package, empty where it is not here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
