"""What a first policy is for: the model that is named, or the components of a saved pipeline.

Owns what the policy calls each model. A model that is not of the catalogue comes with a model file, so that its tests
run where the model is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.model.catalogue import load, model_catalogue
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.starter.draft import Wanted
from devpolicy._core.targets.haystack_components.deciding import own_model, readable
from devpolicy._core.targets.haystack_components.signatures import takes_of_saved
from devpolicy._core.targets.haystack_components.survey import read_pipeline
from devpolicy._core.targets.haystack_components.table import Takes

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class Subject(NamedTuple):
    """A model that the policy is for, and the files that come with it, by their paths from the policy."""

    wanted: Wanted
    files: dict[str, str]


def named_model(given: str, tree: ModelTree) -> Subject:
    """Return the subject for one model, as it was given and as it was read."""
    reference, files = _reference(given, tree)
    return Subject(Wanted(None, reference, tree), files)


def of_pipeline(path: str) -> list[Subject]:
    """Return the components of a saved pipeline that take a device. Raises `DevPolicyError`."""
    found = list(_components(path))
    if not found:
        hint = "a policy decides for components that run a model here: embedders, rankers, readers, generators"
        raise DevPolicyError(Diagnostic("", f"no component of `{path}` takes a device", help=hint))
    return found


def _components(path: str) -> Iterator[Subject]:
    for saved in read_pipeline(path):
        takes = takes_of_saved(saved.path, saved.params)
        if not isinstance(takes, Takes) or takes.form == "text":
            continue
        called = own_model(takes, saved.params) if takes.checkpoint else None
        tree = readable(called) if called is not None else None
        if called is None or tree is None or tree.incomplete_reason is not None:
            about = f"the size of `{called}` is not known here" if called else ""
            yield Subject(Wanted(saved.name, None, None, about, takes.target), {})
            continue
        reference, files = _reference(called, tree)
        about = called if reference != called else ""
        yield Subject(Wanted(saved.name, reference, tree, about), files)


def _reference(given: str, tree: ModelTree) -> tuple[str, dict[str, str]]:
    """Return what a policy calls a model: its name in the catalogue, else a file that is written beside the policy."""
    for name in (given, tree.name or ""):
        # A checkpoint of the user may have the name of another one.
        if name in model_catalogue() and tree == load(name):
            return name, {}
    called = PurePath(given.replace("\\", "/")).name
    stem = _UNFIT.sub("-", re.sub(r"\.(toml|gguf|json|safetensors)$", "", called)).strip("-.") or "model"
    path = f"models/{stem}.toml"
    return path, {path: replace(tree, name=stem).to_toml()}
