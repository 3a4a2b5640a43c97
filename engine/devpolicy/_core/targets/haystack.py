"""Haystack: its own device object, and devices in saved pipelines.

Owns the way from and to `haystack.utils.ComponentDevice`, through dict forms alone, and the callbacks that put
devices right while a saved pipeline is loaded. It knows how Haystack's components keep a device, and plans nothing.

    from haystack.core.serialization import DeserializationCallbacks

    Pipeline.loads(text, callbacks=DeserializationCallbacks(component_pre_init=restore_order))
    Pipeline.loads(text, callbacks=DeserializationCallbacks(component_pre_init=decide(policy)))
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from devpolicy._core.device import ComponentDevice
from devpolicy._core.device.map import KEPT_LAST
from devpolicy._core.errors import DeviceError, DevPolicyError, DevPolicyWarning, MissingLibraryError

if TYPE_CHECKING:
    from os import PathLike

    from haystack.utils import ComponentDevice as HaystackDevice

    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy

PreInit = Callable[[str, type, dict[str, Any]], None]
"""Haystack's `component_pre_init`: the component's name, its class, and its init parameters, to be changed in place."""

KWARGS = ("huggingface_pipeline_kwargs", "pipeline_kwargs", "model_kwargs")
"""Init parameters in which components save `device` or `device_map`, which then win over the parameter `device`."""


def to_haystack(device: ComponentDevice) -> HaystackDevice:
    """Return Haystack's own object of the same value, which every component accepts.

    Raises `DeviceError` for a device that this Haystack does not know (npu, hpu), and `MissingLibraryError` without
    Haystack. Warns where the map would not survive `Pipeline.dumps`, which sorts names: `pipeline()` takes the first
    value for its device, and a disk is none.
    """
    if not isinstance(device, ComponentDevice):
        raise DeviceError(f"a component device of devpolicy is expected, got {_path(device)}")
    converted = _to_haystack(device)
    entries = device.to_dict().get("device_map", {})
    if entries and entries[min(entries)] == "disk" and set(entries.values()) != {"disk"}:
        warnings.warn(
            f"`{min(entries)}` is on the disk and comes first when a pipeline is saved, because names are then sorted: "
            "load the pipeline with the callback devpolicy._core.targets.haystack.restore_order",
            DevPolicyWarning,
            stacklevel=3,  # past ComponentDevice.to_haystack, the usual way here
        )
    return converted


def from_haystack(device: HaystackDevice) -> ComponentDevice:
    """Return the value of Haystack's own object. Raises `DeviceError` where it holds what no library can use.

    A map's disk entries come last, as in `ComponentDevice.from_dict`.
    """
    theirs = _their_class()
    if not isinstance(device, theirs):
        raise DeviceError(f"Haystack's ComponentDevice is expected, got {_path(device)}")
    try:
        saved = device.to_dict()
    except Exception as broken:  # noqa: BLE001 - unchecked when it was made, so it fails here in any way
        raise DeviceError(
            f"this object of Haystack holds no device: {type(broken).__name__} {broken}".rstrip()
        ) from None
    return ComponentDevice.from_dict(saved)


def restore_order(name: str, component: type, init_params: dict[str, Any]) -> None:
    """Put the disk entries of every device map last, then cpu's before them: a `component_pre_init` callback.

    Saving sorts a map by name, and `pipeline()` takes its first value. Treats every init parameter that is a device,
    and a `device_map` inside the Hugging Face keyword arguments.
    """
    del name, component
    theirs = _their_class()
    for key, value in init_params.items():
        if isinstance(value, theirs) and value.has_multiple_devices:
            init_params[key] = _to_haystack(from_haystack(value))
        elif key in KWARGS and isinstance(value, Mapping):
            init_params[key] = _rewritten(value, _with_order)


def decide(
    policy: Policy | str | PathLike[str],
    host: Host | str | PathLike[str] | None = None,
    *,
    components: Collection[str] | None = None,
) -> PreInit:
    """Return a `component_pre_init` callback with which `policy` decides the devices of a saved pipeline.

    A component whose `__init__` takes Haystack's `device` gets the device of the policy's component of the same name,
    and the devices in its Hugging Face keyword arguments are taken out, since they would win. `components` names
    those that are decided, by default all that take a device. For the others, order is restored.

    All of them are planned beside each other, where the policy says what they need, by this callback and no other.
    `host` is by default this machine, probed once. What `devpolicy.resolve` raises while the pipeline loads reaches the
    caller as the `__cause__` of Haystack's `DeserializationError`.
    """
    if isinstance(components, str):
        raise DevPolicyError(f"`components` is a list of names, not the text `{components}`")
    asked = _asking(policy, host)

    def callback(name: str, component: type, init_params: dict[str, Any]) -> None:
        if (components is not None and name not in components) or not _takes_device(component):
            restore_order(name, component, init_params)
            return
        init_params["device"] = _to_haystack(asked(name, component))
        for key in KWARGS:
            if isinstance(init_params.get(key), Mapping):
                init_params[key] = _rewritten(init_params[key], _without_device)

    return callback


def _their_class() -> type[HaystackDevice]:
    try:
        from haystack.utils import ComponentDevice as Theirs
    except ImportError as missing:
        raise MissingLibraryError(
            'Haystack 2.31 or newer is not installed: run `pip install "devpolicy[haystack]"`'
        ) from missing
    return Theirs


def _path(value: Any) -> str:
    """Return the path of a value's class: the name alone is the same for both."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _to_haystack(device: ComponentDevice) -> HaystackDevice:
    theirs = _their_class()
    try:
        return theirs.from_dict(device.to_dict())
    except ValueError as refused:
        raise DeviceError(f"this Haystack cannot express the device: {refused}") from None


def _asking(
    policy: Policy | str | PathLike[str], host: Host | str | PathLike[str] | None
) -> Callable[[str, type], ComponentDevice]:
    """Return what asks a policy for a component's device: on one host, beside what it gave the others."""
    from devpolicy._core.verbs.context import PolicyContext
    from devpolicy._core.verbs.inputs import class_path, host_of, policy_of
    from devpolicy._core.verbs.joint import Request

    loaded = policy_of(policy)
    block = PolicyContext(loaded, None if host is None else host_of(host, loaded))
    return lambda name, cls: block.device(Request(loaded, name, cls=class_path(cls)))


def _takes_device(component: Any) -> bool:
    """Whether a component's `device` is Haystack's: some take text of their own, which is not ours to write."""
    # Of `__init__`, since the signature of the class is that of Haystack's metaclass.
    parameter = inspect.signature(component.__init__).parameters.get("device")
    if parameter is None:
        return False
    try:
        annotation = get_type_hints(component.__init__).get("device", inspect.Parameter.empty)
    except Exception:  # noqa: BLE001 - a name in any annotation that is only known to a type checker
        annotation = parameter.annotation
    return annotation is inspect.Parameter.empty or "ComponentDevice" in str(annotation)


def _rewritten(kwargs: Mapping[str, Any], rewrite: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Apply `rewrite` to keyword arguments and to the `model_kwargs` that `pipeline()` takes inside them."""
    result = rewrite(kwargs)
    if isinstance(result.get("model_kwargs"), Mapping):
        result["model_kwargs"] = rewrite(result["model_kwargs"])
    return result


def _without_device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("device", "device_map")}


def _with_order(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    device_map = kwargs.get("device_map")
    if not isinstance(device_map, Mapping):  # text such as "auto"
        return dict(kwargs)
    ordered = sorted(device_map.items(), key=lambda entry: KEPT_LAST.get(str(entry[1]), 0))
    return {**kwargs, "device_map": dict(ordered)}
