"""A model as it will be held: the class, the files and the adapters that are asked for, in place of the default ones.

Owns the way from a model that was read to the same model loaded otherwise. What is asked comes from whoever plans it.
"""

from __future__ import annotations

from dataclasses import replace

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.tree import ModelTree


def as_held(
    tree: ModelTree, *, architecture: str | None = None, variant: str | None = None, adapters: tuple[str, ...] = ()
) -> ModelTree:
    """Return a model as another class, of other files, or with adapters; the same tree where it is that already.

    Raises `ModelError`: where it is known only as it is (a module, a model file), and what reading it again raises.
    """
    tree = _read_as(tree, architecture, variant)
    if not adapters or adapters == tree.loading.adapters:
        return tree
    from devpolicy._core.model.adapters import with_adapters

    return with_adapters(tree, adapters)


def _read_as(tree: ModelTree, architecture: str | None, variant: str | None) -> ModelTree:
    other_class = architecture is not None and architecture != tree.loading.architecture
    other_files = variant is not None and variant != tree.loading.variant
    if not (other_class or other_files):
        return tree
    if tree.source is None:
        key, value = ("architecture", architecture) if other_class else ("variant", variant)
        message = f'`{key} = "{value}"` chooses how a checkpoint is read, and `{tree.name}` is none'
        help_ = f"leave `{key}` out, or plan the folder of the checkpoint"
        raise ModelError(Diagnostic("DP106", message, help=help_))
    from devpolicy._core.model.catalogue import load

    # What was chosen when it was read the first time stays, where nothing else is asked.
    again = load(tree.source, architecture or tree.loading.architecture, variant=variant or tree.loading.variant)
    return replace(again, name=tree.name)
