"""The result: where each part of a model runs and is kept, and why.

Owns `Plan` and `Placement`, their JSON form and their digest. The modules beside it make plans, targets
turn them into what a consumer takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

from devpolicy._core.cost.prediction import Prediction
from devpolicy._core.device import ComponentDevice, Device
from devpolicy._core.errors import Diagnostic, UnknownModuleError, Unsatisfiable
from devpolicy._core.loading import Loading
from devpolicy._core.placement.granted import Granted, NotGranted
from devpolicy._core.placement.ledger import Budget
from devpolicy._core.placement.saved import load_json, read_plan
from devpolicy._core.text import json_text
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from devpolicy._core.dry_run.result import DryRun


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one unit of a model is kept and where it runs. `bytes` counts a tied tensor once, at its first name."""

    device: Device
    runs_on: Device
    rule: str
    """What decided it: a rule's name, `prefer` or `overflow`."""
    reason: str
    bytes: int
    group: tuple[Device, ...] = ()
    """The devices that share it, where it is divided: `device` is then the first of them."""

    @property
    def all_on(self) -> str:
        """The device that runs it, or those of its group, as text."""
        return " + ".join(map(str, self.group or (self.runs_on,)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON: of a group its devices are a list."""
        names = [str(one) for one in self.group]
        return {
            "device": names or str(self.device),
            "runs_on": names or str(self.runs_on),
            "rule": self.rule,
            "reason": self.reason,
            "bytes": self.bytes,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Placement:
        """Read what `to_dict` wrote. Raises `TypeError` or `ValueError` where it is malformed."""
        written = data["device"]
        names: Sequence[Any] = written if isinstance(written, list) and written else [written, data["runs_on"]]
        devices = tuple(map(Device.from_str, names))
        group = devices if names is written else ()
        kept = (devices[0], devices[0] if group else devices[1])
        return cls(*kept, _text(data["rule"]), _text(data["reason"]), _number(data["bytes"]), group)


@dataclass(frozen=True, slots=True)
class PlannedWorkload:
    """What the memory beside the weights was computed for, of a target that is told so."""

    context: int
    """Tokens of a sequence."""
    batch: int
    """Sequences at once."""
    kv_dtype: str
    """What the KV cache is kept in."""
    kv_offload: str | None = None
    """Where all of it is kept, where that is not on the devices of its layers."""
    pipelined: bool = True
    """Whether devices may work at once, for which the engine reserves copies: there may be no room for them."""
    states: int = 0
    """For how many states of each recurrent layer the engine has slots, where it must be told."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlannedWorkload:
        """Read what `to_dict` wrote. Raises `TypeError` where it is malformed."""
        away = _optional_text(data.get("kv_offload"))
        pipelined = data.get("pipelined", True)
        if type(pipelined) is not bool:
            raise TypeError("`pipelined` is true or false")
        kept = _text(data["kv_dtype"])
        states = _number(data.get("states", 0))
        return cls(_number(data["context"]), _number(data["batch"]), kept, away, pipelined, states)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        away = {"kv_offload": self.kv_offload} if self.kv_offload else {}
        alone = {} if self.pipelined else {"pipelined": False}
        slots = {"states": self.states} if self.states else {}
        return {"context": self.context, "batch": self.batch, "kv_dtype": self.kv_dtype, **away, **alone, **slots}


class Placements(Mapping[str, Placement]):
    """The units of a plan by module path, in execution order.

    Iterating gives the units. Asking for a module inside a unit gives the unit's placement.
    """

    def __init__(self, units: Mapping[str, Placement]) -> None:
        self._units = dict(units)
        # A divided module's own unit holds its direct tensors, and nothing below it.
        self._divided: set[str] = set()
        for path in self._units:
            while path and (path := path.rpartition(".")[0]) not in self._divided:
                self._divided.add(path)

    def __getitem__(self, module: str) -> Placement:
        """Return the placement of a module. Raises `UnknownModuleError` with the likely one where there is none."""
        found = self._find(module)
        if found is None:
            raise self.unknown(module)
        return found

    def __contains__(self, module: object) -> bool:
        return self._find(module) is not None

    def _find(self, module: object) -> Placement | None:
        path = module
        while isinstance(path, str):
            found = self._units.get(path)
            if found is not None and (path == module or path not in self._divided):
                return found
            if not path:
                break
            path = path.rpartition(".")[0]
        return None

    def unknown(self, module: object) -> UnknownModuleError:
        """Return the error about a module that the plan does not have."""
        if not isinstance(module, str):
            return UnknownModuleError(f"a module is named by text, not by a value of type {type(module).__name__}")
        known = [path for path in (*self._units, *sorted(self._divided)) if path]
        help_ = did_you_mean(module, known) if known else "the model is one unit, whose path is empty"
        return UnknownModuleError(Diagnostic("DP202", f"the plan has no module `{module}`", help=help_))

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def values(self) -> ValuesView[Placement]:
        """Return the placements of the units, in execution order."""
        return self._units.values()

    def items(self) -> ItemsView[str, Placement]:
        """Return the units by module path, in execution order."""
        return self._units.items()

    def __len__(self) -> int:
        return len(self._units)

    def __repr__(self) -> str:
        return f"Placements({self._units!r})"

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """The devices that execute something, in the order in which they first do."""
        return tuple(dict.fromkeys(one for unit in self._units.values() for one in unit.group or (unit.runs_on,)))

    def below(self, module: str) -> dict[str, Placement]:
        """Return the units inside `module`, or the one that holds it; empty where the model has no such module."""
        if not isinstance(module, str):
            return {}
        if module in self._divided:
            prefix = f"{module}." if module else ""
            return {path: unit for path, unit in self._units.items() if path == module or path.startswith(prefix)}
        found = self._find(module)
        return {} if found is None else {module: found}


@dataclass(frozen=True, slots=True)
class Trace:
    """How a plan came about, for people: nothing is computed from it."""

    terms: tuple[tuple[str, str], ...] = ()
    """Each entry of `prefer` that was tried with its outcome, in order."""
    notes: tuple[tuple[str, str], ...] = ()
    """The path of a unit, and why a rule or `overflow` did not decide it as written."""

    def of(self, path: str) -> list[str]:
        """Return the notes on one unit."""
        return [note for unit, note in self.notes if unit == path]


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy compiled for one host, one model and one consumer."""

    component: str | None
    target: str
    device: ComponentDevice | None
    """A single device where one holds everything, else a map whose keys are disjoint and cover every tensor.

    `None` where units are divided over groups of devices: no `ComponentDevice` can say that. `component_device` raises.
    """
    placements: Placements
    ledger: Mapping[str, Budget]
    """What each device that the plan uses holds: executing devices in id order, then `cpu`, then `disk`."""
    warnings: tuple[Diagnostic, ...] = ()
    loading: Loading = Loading()
    """What loading needs beside the devices."""
    granted: Granted | None = None
    """What became of wishes that may give way; `None` where the policy has none."""
    not_granted: tuple[NotGranted, ...] = ()
    """Each earlier choice of a wish, with why it did not do."""
    prediction: Prediction | None = None
    """The time of one token, where the plan was chosen by it: with `split = "fastest"`, and where `overflow` took part.

    A prediction, and no measurement.
    """
    workload: PlannedWorkload | None = None
    """What KV cache and activations were computed for, where the target is told so: an engine reserves them itself."""
    kept_by_engine: int = 0
    """Bytes of each device's weights that the engine keeps on the CPU, of its own choice."""
    gpu_experts: int | None = None
    """How many experts of each layer run on the accelerator, where the engine runs the others on the CPU."""
    starts_after: tuple[str, ...] = ()
    """The components that must have taken their memory before it starts: one is told of what is free at that time."""
    streaming: str | None = None
    """The target's mode by which the whole model is streamed through one device; `None` where it is not."""
    trace: Trace | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        # In full it is a line for each layer: `to_dict` has everything, and `explain` the reasons.
        name = "" if self.component is None else f"of {self.component!r} "
        return f"<Plan {name}for {self.target}: {len(self.placements)} units on {', '.join(self.ledger)}>"

    @property
    def component_device(self) -> ComponentDevice:
        """The plan's device. Raises `Unsatisfiable` (DP409) where units are divided over groups of devices."""
        if self.device is None:
            message = "units are divided over groups of devices, which no `ComponentDevice` can say"
            raise Unsatisfiable(Diagnostic("DP409", message, help=f"take the target's own form: `--to {self.target}`"))
        return self.device

    @property
    def digest(self) -> str:
        """A SHA-256 over what the consumer is given. Reasons, warnings and figures of memory are not part of it.

        Nor is what the model itself decides about its loading (its dtype, its attention): a policy changes neither.
        """
        return self._digest(str)

    @property
    def ordinal_free_digest(self) -> str:
        """A digest in which devices have their order and no ordinals: `cuda:1`, `cuda:3` are as `cuda:0`, `cuda:1`.

        Two plans have the same one where they are the same on other accelerators of a host: one that was made for all
        of them, and one that a process makes which sees only some.
        """
        used = {device for unit in self.placements.values() for device in (unit.device, unit.runs_on)}
        ordered = sorted(used, key=lambda device: (device.type.value, device.id or 0))
        ranks: dict[str, int] = {}
        names: dict[str, str] = {}
        for device in ordered:
            kind = device.type.value
            names[str(device)] = kind if kind in ("cpu", "disk") else f"{kind}:{ranks.setdefault(kind, 0)}"
            ranks[kind] = ranks.get(kind, 0) + 1
        return self._digest(lambda device: names.get(device, device))

    def _digest(self, name: Callable[[str], str]) -> str:
        """Return the digest, with each device under another name."""
        given = {
            "schema": 1,
            "component": self.component,
            "target": self.target,
            # A list of pairs: the order of a device map's entries is part of its meaning.
            "device": _ordered(self.device, name),
            "dtype": self.loading.dtype,
            "offload_folder": self.loading.offload_folder,
            **({"workload": self.workload.to_dict()} if self.workload else {}),
            **({"streaming": self.streaming} if self.streaming else {}),
            **({"kept_by_engine": self.kept_by_engine} if self.kept_by_engine else {}),
            "placements": [[path, *_places(unit, name)] for path, unit in self.placements.items()],
            # Only where a policy says anything of it: a plan that says nothing has the digest that it always had.
            **({"loading": dict(self.loading.asked)} if self.loading.asked else {}),
        }
        if self.loading.quantization is not None:
            given["quantization_config"] = dict(self.loading.quantization)
        text = json.dumps(given, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON. `Plan.from_dict` reads it back to an equal plan."""
        return {
            "schema": 1,
            "component": self.component,
            "target": self.target,
            "device": None if self.device is None else self.device.to_dict(),
            "placements": {path: unit.to_dict() for path, unit in self.placements.items()},
            "ledger": {device: budget.to_dict() for device, budget in self.ledger.items()},
            "load": self.loading.to_dict(),
            **({} if self.granted is None else {"granted": self.granted.to_dict()}),
            **({} if self.granted is None else {"not_granted": [one.to_dict() for one in self.not_granted]}),
            **({"workload": self.workload.to_dict()} if self.workload else {}),
            **({"streaming": self.streaming} if self.streaming else {}),
            **({"kept_by_engine": self.kept_by_engine} if self.kept_by_engine else {}),
            **({} if self.gpu_experts is None else {"gpu_experts": self.gpu_experts}),
            **({"starts_after": [*self.starts_after]} if self.starts_after else {}),
            "warnings": [warning.to_dict() for warning in self.warnings],
            **({"prediction": self.prediction.to_dict()} if self.prediction else {}),
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read a plan written by `to_dict`.

        Raises `PlanError`, a `DevPolicyError` and a `ValueError`, where it is malformed or its digest does not match.
        """
        return read_plan(data, cls._read, "a plan")

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Plan:
        placements = {_text(path): Placement.from_dict(unit) for path, unit in data["placements"].items()}
        device = data["device"]
        return cls(
            component=_optional_text(data["component"]),
            target=_text(data["target"]),
            device=None if device is None else ComponentDevice.from_dict(dict(device)),
            placements=Placements(placements),
            ledger={_text(device): Budget.from_dict(budget) for device, budget in data["ledger"].items()},
            warnings=tuple(map(Diagnostic.from_dict, data["warnings"])),
            loading=Loading.from_dict(data.get("load", {})),
            granted=Granted.from_dict(data["granted"]) if data.get("granted") else None,
            not_granted=tuple(map(NotGranted.from_dict, data.get("not_granted", ()))),
            workload=PlannedWorkload.from_dict(data["workload"]) if data.get("workload") else None,
            prediction=Prediction.from_dict(data["prediction"]) if data.get("prediction") else None,
            streaming=_optional_text(data.get("streaming")),
            kept_by_engine=_number(data.get("kept_by_engine", 0)),
            gpu_experts=None if data.get("gpu_experts") is None else _number(data["gpu_experts"]),
            starts_after=_texts(data.get("starts_after", [])),
        )

    def to_json(self) -> str:
        """Return the plan as JSON text, which `Plan.load` reads from a file."""
        return json_text(self.to_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Read a plan from a JSON file: `to_json`, or what `devpolicy plan --format json` prints of one component.

        Raises `PlanError`, DP109 where the file cannot be read.
        """
        return cls.from_dict(load_json(path))

    def explain(self, module: str | None = None) -> str:
        """Return why `module` (a path; `None`: the plan as a whole) is where it is, as text of several lines.

        Raises `UnknownModuleError`, with the likely one, where the model has no such module.
        """
        from devpolicy._core.placement.explain import explain

        return explain(self, module)

    def _repr_html_(self) -> str:
        """Return the plan's picture, which notebooks show."""
        from devpolicy._core.views.notebook import html

        return html(self)

    # Doors to the consumers; each adapter knows one consumer's rules.

    def to_hf_kwargs(self) -> dict[str, Any]:
        """Return all that `from_pretrained` needs: `device_map`, `dtype`, implementations, perhaps `offload_folder`."""
        from devpolicy._core.targets.transformers import to_hf_kwargs

        return to_hf_kwargs(self)

    def to_pipeline_kwargs(self) -> dict[str, Any]:
        """Return all that `transformers.pipeline` needs: `device` or `device_map`, perhaps `model_kwargs`."""
        from devpolicy._core.targets.transformers import to_pipeline_kwargs

        return to_pipeline_kwargs(self)

    def to_diffusers_kwargs(self) -> dict[str, Any]:
        """Return what `DiffusionPipeline.from_pretrained` needs; `devpolicy.targets.place_pipeline` does the rest."""
        from devpolicy._core.targets.diffusers import to_diffusers_kwargs

        return to_diffusers_kwargs(self)

    def to_generation_kwargs(self) -> dict[str, Any]:
        """Return what `generate` needs to stay within the plan: `max_length`, the context that was counted."""
        return {"max_length": self.loading.context} if self.loading.context else {}

    def load_adapters(self, model: Any) -> Any:
        """Load the plan's adapters onto a model that was loaded by it, and return PEFT's model. Nothing else moves."""
        from devpolicy._core.targets.peft import load_adapters

        return load_adapters(self, model)

    def verify(self, model: Any) -> list[str]:
        """Compare every tensor's actual device in a loaded model with the plan; return the differences, or nothing."""
        from devpolicy._core.targets.verify import verify

        return verify(self, model)

    def dry_run(
        self,
        model: Any,
        host: Any = None,
        *,
        prompt: int | None = None,
        new_tokens: int | None = None,
        batch: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        architecture: str | None = None,
        timeout: float | None = None,
    ) -> DryRun:
        """Load and run `model` by this plan on a simulated `host`, at true size, and return what happened.

        The real library loads it with the plan's own arguments, and the real code runs: one prompt, and a few tokens
        behind it where the model generates. No weights are read and no device is needed. `model` is what `plan` takes:
        a catalogue name, a checkpoint folder, a configuration, which run in a child process; or a module, which runs in
        this one, is not changed, and may be given the `inputs` that it is called with. `host` is by default this
        machine. `prompt`, `new_tokens` and `batch` are by default those that the plan was made for. A child process is
        ended after `timeout` seconds, ten minutes by default.

        Raises `SimulationDepthError` where devices cannot be simulated here, and `DevPolicyError` for a model of which
        nothing says what its code is, and for a run that takes longer than `timeout`.
        """
        from devpolicy._core.dry_run.verb import dry_run

        return dry_run(
            self,
            model,
            host,
            prompt=prompt,
            new_tokens=new_tokens,
            batch=batch,
            inputs=inputs,
            architecture=architecture,
            timeout=timeout,
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is expected, got {type(value).__name__}")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number is expected, got {type(value).__name__}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"a list is expected, got {type(value).__name__}")
    return tuple(map(_text, value))


def _places(unit: Placement, name: Callable[[str], str]) -> tuple[object, object]:
    if unit.group:
        return [name(str(device)) for device in unit.group], "divided"
    return name(str(unit.device)), name(str(unit.runs_on))


def _ordered(device: ComponentDevice | None, name: Callable[[str], str]) -> object:
    if device is None:
        return None
    form = device.to_dict()
    if "device_map" in form:
        return [(module, name(place)) for module, place in form["device_map"].items()]
    return name(form["device"])
