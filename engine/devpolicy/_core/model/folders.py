"""What a folder is that is no checkpoint of Transformers.

Owns the marks by which folders of other libraries are known, and what to write in place of them. Their files are not
interpreted further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import is_file, is_folder, read_json, shown
from devpolicy._core.model.limits import LARGEST_CONFIG


def other_kind(folder: Path) -> Diagnostic | None:
    """Return what a folder without a `config.json` is, and what to plan in place of it; `None` where it is unknown."""
    mark = mark_of(name for name in _KINDS if is_file(folder / name))
    if mark is None:
        return None
    what, help_ = _KINDS[mark](folder / mark)
    return Diagnostic("DP109", f"`{shown(folder)}` is {what}", help=help_)


def mark_of(files: Iterable[str]) -> str | None:
    """Return the file of these by which it is known whose they are, `None` where there is none."""
    present = set(files)
    return next((mark for mark in _KINDS if mark in present), None)


def other_library(config: Mapping[str, Any], folder: Path) -> Diagnostic | None:
    """Return whose `config.json` it is that names no `model_type`, `None` where it is unknown."""
    if config.get("model_type") is not None:
        return None
    if isinstance(config.get("pretrained_cfg"), Mapping) or isinstance(config.get("architecture"), str):
        return Diagnostic(
            "DP109",
            f"`{shown(folder)}` is a model of timm, which Transformers' loading does not read",
            help="plan its module: `plan(policy, timm.create_model(name))`",
        )
    if isinstance(config.get("_class_name"), str):
        return Diagnostic(
            "DP109",
            f"`{shown(folder)}` is a part of a diffusers pipeline, `{shown(config['_class_name'])}`",
            help="plan its module on the meta device: `plan(policy, module)`",
        )
    return None


def _adapter(mark: Path) -> tuple[str, str]:
    base = _read(mark).get("base_model_name_or_path")
    named = f"`{shown(base)}`" if isinstance(base, str) and base else "its base model"
    return (
        f"an adapter of {named}, and no whole model",
        f'plan {named}, with `adapter = "{shown(mark.parent)}"` in `[loading]`',
    )


def _pipeline(mark: Path) -> tuple[str, str]:
    parts = sorted(name for name in _read(mark) if not name.startswith("_") and is_folder(mark.parent / name))
    named = f": {', '.join(f'`{shown(mark.parent / name)}`' for name in parts[:6])}" if parts else ""
    return "a diffusers pipeline, several models in one folder", f"plan its parts one by one{named}"


def _sentences(mark: Path) -> tuple[str, str]:
    inside = next((one for one in ("0_Transformer", "transformer") if is_file(mark.parent / one / "config.json")), None)
    named = f"`{shown(mark.parent / inside)}`" if inside else "the folder of its transformer"
    return "a sentence-transformers model whose transformer has a folder of its own", f"plan {named}"


def _spacy(_: Path) -> tuple[str, str]:
    return "a spaCy pipeline", 'say what it takes: `needs = "2 GiB"` in `[component.NAME]`, with `target = "spacy"`'


def _read(mark: Path) -> dict[str, Any]:
    try:
        return read_json(mark, LARGEST_CONFIG)
    except ModelError:  # what it is, is known all the same
        return {}


_KINDS = {
    "adapter_config.json": _adapter,
    "model_index.json": _pipeline,
    "modules.json": _sentences,
    "config.cfg": _spacy,
}
