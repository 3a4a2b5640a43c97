"""Dry runs: a plan is tried by the real library and the real code, at true size, on the simulated host.

Owns `dry_run`, and everything between a plan and what its devices held while the model was loaded and run.

    verb.py        `dry_run`: what callers give, and which process runs it
    child.py       the process that runs it, and the one that asks
    attempt.py     one load, one call of the model, what each device held
    checkpoint.py  files with the header of a checkpoint and no weights
    host_memory.py tensors of the CPU at true size, without data
    watch.py       which module runs, and device errors that are recorded and passed
    inputs.py      what a model is called with, from its configuration
    result.py      `DryRun`
"""

from __future__ import annotations

from devpolicy._core.dry_run.result import DryRun, RunError, Use

__all__ = ["DryRun", "RunError", "Use"]
