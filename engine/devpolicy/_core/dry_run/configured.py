"""A dry run of a model that is known by its configuration: a checkpoint of it is laid out and loaded.

Owns the way from a configuration to the class of Transformers and to the folder that its `from_pretrained` reads.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devpolicy._core.dry_run.attempt import Job, Progress, attempt
from devpolicy._core.dry_run.checkpoint import link_checkpoint, scratch, write_checkpoint
from devpolicy._core.dry_run.child import Request
from devpolicy._core.dry_run.inputs import Size
from devpolicy._core.dry_run.result import DryRun
from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.model.config import BUILT_IN, build
from devpolicy._core.model.facts import named_dtype
from devpolicy._core.model.sealed import sealed

TINY = 64 << 20
"""Bytes of the largest model that is computed in full."""
_FEW_TOKENS = 4096
_GENERATION = "generation_config.json"


def run_configured(request: Request, progress: Progress) -> DryRun:
    """Return the result of a request. Raises `ModelError` where its configuration makes no model."""
    table = json.loads(request.config)
    model = build(table, request.architecture)
    cls, config = type(model), model.config
    batch, prompt, new, beams = request.sizes
    held = sum(budget.weights for budget in request.plan.ledger.values())
    depth = "tensors" if held <= TINY and batch * (prompt + new) <= _FEW_TOKENS else "phantom"
    size = Size(batch, prompt if model.can_generate() else prompt + new, new, beams)
    with scratch() as folder:
        stored = loaded_dtype(named_dtype(table), ())
        real = request.folder is not None and link_checkpoint(folder, Path(request.folder))
        if not real:
            write_checkpoint(folder, model, BUILT_IN, stored)
        del model
        config.dtype = stored
        config.save_pretrained(folder)
        _copy_generation(request.folder, folder)

        def load(kwargs: Mapping[str, Any]) -> Any:
            given = {key: value for key, value in kwargs.items() if real or key != "variant"}
            if "offload_folder" in given:
                given["offload_folder"] = str(folder / "offload")
            return cls.from_pretrained(folder, **given)

        job = Job(request.plan, request.host, request.name, size, depth)
        with sealed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt(job, load, progress)


def _copy_generation(real: str | None, folder: Path) -> None:
    """Copy a checkpoint's generation settings, such as how its prompts begin."""
    from devpolicy._core.model.files import is_file, read_json
    from devpolicy._core.model.limits import LARGEST_CONFIG
    from devpolicy._core.model.neutral import config_text

    if real is not None and is_file(Path(real) / _GENERATION):
        table = read_json(Path(real) / _GENERATION, LARGEST_CONFIG)
        (folder / _GENERATION).write_text(config_text(table), encoding="utf-8")
