"""One dry run in this process: the model is loaded, called, and watched.

Owns the order of it and what is measured when. Who loads the model, and from what, is a function that it is given.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from devpolicy._core.dry_run.inputs import Size, candidates
from devpolicy._core.dry_run.result import KEPT, DryRun, RunError, Use
from devpolicy._core.host import Host
from devpolicy._core.placement.plan import Plan
from devpolicy._core.simulation import simulate_host, simulated_device

Progress = Callable[[int, int], None]
STEPS = 3
"""Loading, the first forward, and the rest of the call."""
_MOST_DIFFERENCES = 8
_ENVIRONMENT = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
"""Loading in this thread: what is not written to memory is a matter of the thread."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is tried."""

    plan: Plan
    host: Host
    model: str
    """What messages call the model."""
    size: Size
    depth: str
    inputs: Mapping[str, Any] | None = None
    """What the model is called with; `None` for inputs made of its configuration."""

    def places(self, module: str) -> str | None:
        """Return the device that a module runs on, `None` where it runs on several or holds nothing."""
        found = {str(unit.runs_on) for unit in self.plan.placements.below(module).values()}
        return found.pop() if len(found) == 1 else None


def attempt(job: Job, load: Callable[[Mapping[str, Any]], Any], progress: Progress = lambda done, of: None) -> DryRun:
    """Return what happened. `load` takes the plan's keyword arguments and returns the model.

    Raises `SimulationDepthError` where the host cannot be simulated here.
    """
    start, before = time.monotonic(), _most_memory()
    with ExitStack() as stack:
        _enter(stack, job)
        run = _Run(job, progress)
        run.load(load)
        if run.model is not None:
            run.call()
        devices = run.uses()
        run.model = None
        gc.collect()
    return DryRun(
        job.model,
        job.host.name or "this host",
        run.called,
        devices,
        tuple(run.watch.errors),
        tuple(run.notes),
        time.monotonic() - start,
        _most_memory() - before,
    )


def _enter(stack: ExitStack, job: Job) -> None:
    import torch

    from devpolicy._core.dry_run.checkpoint import write_tensors
    from devpolicy._core.dry_run.host_memory import UnwrittenMemory

    stack.enter_context(_environment(_ENVIRONMENT))
    stack.enter_context(simulate_host(job.host, depth=job.depth))
    for device, budget in job.plan.ledger.items():
        if budget.used_by_others and device not in KEPT:
            simulated_device(device).take(budget.used_by_others)
    stack.enter_context(torch.no_grad())
    if job.depth == "phantom":
        from transformers.integrations import accelerate

        stack.enter_context(_replaced(accelerate, "save_file", write_tensors))
        stack.enter_context(UnwrittenMemory())  # type: ignore[no-untyped-call]


class _Run:
    """One run: what there is of it so far."""

    def __init__(self, job: Job, progress: Progress) -> None:
        from devpolicy._core.dry_run.watch import Watch

        self.job, self.progress = job, progress
        self.watch = Watch(job.places)
        self.model: Any = None
        self.called = ""
        self.notes: list[str] = []
        self._devices = [device for device in job.plan.ledger if device not in KEPT]
        self._loaded: dict[str, int] = {}
        self._load_peaks: dict[str, int] = {}
        self._run_peaks: dict[str, int] = {}

    def load(self, load: Callable[[Mapping[str, Any]], Any]) -> None:
        """Load the model, and compare what is held with the plan."""
        from devpolicy._core.targets.transformers import to_hf_kwargs
        from devpolicy._core.targets.verify import kept_bytes, verify

        self.progress(0, STEPS)
        try:
            self.model = load(to_hf_kwargs(self.job.plan))
        except Exception as broken:  # noqa: BLE001 - a library's error is the finding
            self.watch.note(broken)
        self._load_peaks = self._peaks()
        if self.model is None:
            return
        self.model.eval()
        self.watch.follow(self.model)
        self._loaded = {device: simulated_device(device).allocated for device in self._devices}
        self._loaded |= kept_bytes(self.model)
        for line in islice(verify(self.job.plan, self.model), _MOST_DIFFERENCES):
            self.watch.errors.append(RunError("placement", "load", line))
        self.progress(1, STEPS)

    def call(self) -> None:
        """Call the model with the first inputs that it takes."""
        given = self.job.inputs
        failed: Exception | None = None
        for inputs in [given] if given is not None else self._candidates():
            if isinstance(inputs, Exception):
                failed = failed or inputs
                continue
            outcome = self._try(inputs)
            if outcome is None:
                return
            failed = failed or outcome
        self.watch.note(failed or ValueError("no inputs are known for a model of this class"))

    def _candidates(self) -> Iterator[Any]:
        """Yield inputs; making them may run a part of the model, which may fail."""
        found = candidates(self.model, self.job.size)
        self.watch.phase = "prefill"
        while True:
            try:
                with self.watch.watching():
                    inputs = next(found, None)
            except Exception as broken:  # noqa: BLE001 - other inputs may do
                yield broken
                return
            if inputs is None:
                return
            yield inputs

    def _try(self, inputs: Mapping[str, Any]) -> Exception | None:
        """Call the model, to generate where it can; return the error of inputs that it does not take."""
        import torch

        there = {
            key: value.to(self._main()) if isinstance(value, torch.Tensor) else value for key, value in inputs.items()
        }
        shapes = ", ".join(f"{key} {_shape(value)}" for key, value in inputs.items())
        for device in self._devices:
            simulated_device(device).reset_peak()
        failed: Exception | None = None
        for name, call in self._calls():
            self.watch.phase, self.called = "prefill", f"{name}({shapes})"
            hook = self.model.register_forward_hook(lambda *_: self._after_forward())
            try:
                with self.watch.watching():
                    call(there)
            except Exception as broken:  # noqa: BLE001 - a library's error is the finding
                self._run_peaks = self._peaks()
                if self.watch.is_of_devices(broken):
                    self.watch.note(broken)
                    return None
                failed = failed or broken
                self.watch.forget()
                continue
            finally:
                hook.remove()
            self._run_peaks = self._peaks()
            if failed is not None:
                self.notes.append(f"`generate` was not tried to its end: {type(failed).__name__}: {_first(failed)}")
            self.progress(STEPS, STEPS)
            return None
        return failed

    def _after_forward(self) -> None:
        self.watch.phase = "decode"
        self.progress(2, STEPS)

    def _calls(self) -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
        size = self.job.size
        if getattr(self.model, "can_generate", bool)() and size.new_tokens:
            config = self.model.generation_config
            # Token 0 is drawn each time, which must not end the answer.
            config.eos_token_id = None
            # A static cache, which a checkpoint may ask for, would start a compiler.
            config.disable_compile, config.compile_config = True, None
            if self.model.config.is_encoder_decoder and config.decoder_start_token_id is None:
                config.decoder_start_token_id = 0
            how = {"max_new_tokens": size.new_tokens, "num_beams": size.beams, "do_sample": False}
            yield "generate", lambda given: self.model.generate(**given, **how)
        yield "forward", lambda given: self.model(**given)

    def _main(self) -> str:
        return next(iter(self.job.plan.ledger))

    def _peaks(self) -> dict[str, int]:
        return {device: simulated_device(device).peak for device in self._devices}

    def uses(self) -> dict[str, Use]:
        """Return what each device of the plan held."""
        return {
            device: Use(
                self._loaded.get(device, 0), self._load_peaks.get(device, 0), self._run_peaks.get(device, 0), budget
            )
            for device, budget in self.job.plan.ledger.items()
        }


def _first(broken: BaseException) -> str:
    return str(broken).strip().partition("\n")[0]


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape)) if hasattr(value, "shape") else str(value)


def _most_memory() -> int:
    """Return the most memory that this process has had, 0 where the system does not report it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
