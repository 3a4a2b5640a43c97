"""How the device of a component is written into its init parameters.

Owns the key that each library reads, what must be taken out because it would win, and what a component has no way to
be told. All functions return new values: what a caller gave is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from devpolicy._core.device import ComponentDevice, DeviceType
from devpolicy._core.device.map import KEPT_LAST
from devpolicy._core.loading.value import ATTENTION
from devpolicy._core.model.tree import FLOATING
from devpolicy._core.placement.loading import asked_pairs
from devpolicy._core.targets.haystack_components.table import KWARGS, Takes
from devpolicy._core.targets.pools import fastembed_pool, sentence_transformers_pool
from devpolicy._core.targets.transformers import to_hf_kwargs, to_pipeline_kwargs

if TYPE_CHECKING:
    from devpolicy._core.language.policy import ResolvedPolicy
    from devpolicy._core.placement.plan import Plan

_LOADING = ("pipeline", "from_pretrained", "sentence-transformers", "text-or-map")
"""The forms that take keyword arguments of loading."""
_ARGUMENTS = {"quantization": "quantization_config", "attention": "attn_implementation"}
"""Keys of `[loading]` whose arguments have other names."""
_OWN = {"dtype", "variant", "attn_implementation", "experts_implementation", "quantization_config"}
"""Arguments that a component may give itself."""
_PLACES = ("device", "device_map")
_PROVIDERS = ("cuda", "device_ids", "device_id", "providers", "provider", "provider_options")
_LAYERS = ("n_gpu_layers", "main_gpu", "split_mode", "tensor_split")
_ALL_LAYERS, _ONE_GPU = -1, 0
"""llama.cpp's words for every layer on a GPU, and for one GPU (`LLAMA_SPLIT_MODE_NONE`)."""


def written(
    takes: Takes,
    params: Mapping[str, Any],
    device: ComponentDevice,
    plan: Plan | None = None,
    copies: Sequence[ComponentDevice] = (),
) -> dict[str, Any]:
    """Return the init parameters that change: those of the device, and those of what else the plan asks of loading.

    `copies` are the devices of all replicas, where there are several.
    """
    kwargs = params.get(takes.kwargs) if takes.kwargs else None
    given = rewritten(kwargs, _without_places) if isinstance(kwargs, Mapping) else {}
    changed: dict[str, Any] = {
        key: rewritten(value, _without_places) for key in KWARGS if isinstance(value := params.get(key), Mapping)
    }
    match takes.form:
        case "device":
            changed["device"] = _haystack(device)
        case "text":
            changed["device"] = device.to_torch_str()
        case "ours":
            changed["device"] = device
        case "pipeline" | "from_pretrained":
            changed["device"] = _haystack(device)
            _put(changed, takes, given, plan, whole=False)
        case "sentence-transformers" | "text-or-map":
            text = None if device.has_multiple_devices else device.to_torch_str()
            changed["device"] = text if takes.form == "text-or-map" else _haystack(device.first_device)
            _put(changed, takes, given, plan, whole=device.has_multiple_devices)
        case "sentence-transformers-onnx":
            changed["device"] = _haystack(device)
            changed[takes.kwargs or ""] = {**_without(given, _PROVIDERS), **_provider(device)}
        case "fastembed":
            changed[takes.kwargs or ""] = {**_without(given, _PROVIDERS), **_cuda(device)}
        case "provider":
            provider = _provider(device)
            # A saved component has its provider frozen there, which wins.
            changed["onnx_execution_provider"] = provider.pop("provider")
            changed[takes.kwargs or ""] = {**_without(given, _PROVIDERS), **provider}
        case "llama-cpp":
            changed[takes.kwargs or ""] = {**_without(given, _LAYERS), **_layers(device)}
    return changed | _pool(takes, params, changed, copies)


def _pool(
    takes: Takes, params: Mapping[str, Any], changed: Mapping[str, Any], copies: Sequence[ComponentDevice]
) -> dict[str, Any]:
    """Return the init parameters of workers on several devices; those that were saved for others are taken out."""
    if takes.pool == "encode_kwargs":
        given = params.get("encode_kwargs")
        plain = _without(given, ("device",)) if isinstance(given, Mapping) else {}
        if len(copies) > 1:
            return {"encode_kwargs": {**plain, "device": sentence_transformers_pool(copies)}}
        return {"encode_kwargs": plain or None} if plain != (given or {}) else {}
    if takes.pool == "parallel":
        if len(copies) > 1:
            kwargs = {**changed[takes.kwargs or ""], **fastembed_pool(copies)}
            return {takes.kwargs or "": kwargs, "parallel": len(copies)}
        before = params.get(takes.kwargs or "")
        several = isinstance(before, Mapping) and len(before.get("device_ids") or ()) > 1
        return {"parallel": None} if several and params.get("parallel") else {}
    return {}


def lost(takes: Takes, plan: Plan) -> list[str]:
    """Return what a plan asks of loading that a component of this form cannot be told."""
    if takes.form in _LOADING:
        return []
    asked = {"dtype": plan.loading.dtype, "offload_folder": plan.loading.offload_folder, **dict(plan.loading.asked)}
    return [f"`{name}` {value}" for name, value in asked.items() if value is not None]


def own_loading(takes: Takes, params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the keyword arguments of a component ask of loading themselves, as far as a plan can count with it."""
    kwargs = params.get(takes.kwargs or "")
    if takes.form not in _LOADING or not isinstance(kwargs, Mapping):
        return
    inner = kwargs.get("model_kwargs")
    asked = {**(inner if isinstance(inner, Mapping) else {}), **kwargs}
    # A dtype of torch, or its name as Haystack saves it.
    dtype = str(asked.get("dtype") or asked.get("torch_dtype")).removeprefix("torch.")
    if dtype in FLOATING:
        yield "dtype", dtype
    if asked.get("attn_implementation") in ATTENTION:
        yield "attention", asked["attn_implementation"]


def unplanned(takes: Takes, policy: ResolvedPolicy) -> list[str]:
    """Return what a policy asks of loading that a component of this form is not told where no plan is made."""
    if takes.form not in _LOADING:
        return []
    dtype = policy.workload.dtype
    asked = {**({"dtype": dtype} if dtype else {}), **dict(asked_pairs(policy.loading))}
    return [f"`{name}` {value}" for name, value in asked.items()]


def given_device(takes: Takes, params: Mapping[str, Any]) -> str | None:
    """Return the device that init parameters hold, as text; `None` where they leave it to a default."""
    device = params.get("device")
    if takes.form not in ("fastembed", "provider", "llama-cpp"):
        for key in KWARGS:
            frozen = params.get(key)
            for kwargs in (frozen, frozen.get("model_kwargs") if isinstance(frozen, Mapping) else None):
                found = [kwargs[place] for place in _PLACES if place in kwargs] if isinstance(kwargs, Mapping) else []
                if found and found[0] is not None:
                    return _told(found[0])
        pool = params.get("encode_kwargs") if takes.pool == "encode_kwargs" else None
        if isinstance(pool, Mapping) and pool.get("device") is not None:
            return ", ".join(map(_told, pool["device"])) if isinstance(pool["device"], list) else _told(pool["device"])
        return None if device is None else _told(device)
    kwargs = params.get(takes.kwargs or "")
    keys = _LAYERS if takes.form == "llama-cpp" else _PROVIDERS
    said = {key: kwargs[key] for key in keys if key in kwargs} if isinstance(kwargs, Mapping) else {}
    if takes.form == "provider" and "provider" not in said and params.get("onnx_execution_provider"):
        said = {"onnx_execution_provider": params["onnx_execution_provider"], **said}
    return ", ".join(f"{key}={value}" for key, value in said.items()) or None


def kept(takes: Takes, params: Mapping[str, Any], values: Mapping[str, Any], *, device_too: bool) -> dict[str, Any]:
    """Return changed init parameters as an instance keeps them, where its `__init__` moves the device.

    Hugging Face components move it into their keyword arguments; `device_too` says whether they keep it beside that.
    `params` are what the instance keeps now: a class without a row has moved its device where it is found there.
    """
    result = dict(values)
    device: Any = result.get("device")
    if not takes.known and hasattr(device, "to_hf"):
        moved = {key: found for key in KWARGS if (found := _moved(params.get(key), result.get(key), device))}
        if moved or (device_too and takes.form == "pipeline"):
            return {**result, **moved} if device_too else {**_without(result, ("device",)), **moved}
    if takes.form not in ("pipeline", "from_pretrained"):
        return result
    key = "device_map" if takes.form == "from_pretrained" or device.has_multiple_devices else "device"
    result[takes.kwargs or ""] = {**result.get(takes.kwargs or "", {}), key: device.to_hf()}
    if takes.form == "from_pretrained" or not device_too:
        del result["device"]
    return result


def _moved(before: Any, after: Any, device: Any) -> dict[str, Any]:
    """Return keyword arguments `after` with a device where those `before` had one, also inside of them."""
    if not isinstance(before, Mapping):
        return {}
    place = next((key for key in ("device_map", "device") if before.get(key) is not None), None)
    here = {} if place is None else {"device_map" if device.has_multiple_devices else place: device.to_hf()}
    inner = _moved(before.get("model_kwargs"), (after or {}).get("model_kwargs"), device)
    return {**(after or {}), **here, **({"model_kwargs": inner} if inner else {})} if here or inner else {}


def rewritten(kwargs: Mapping[str, Any], rewrite: Any) -> dict[str, Any]:
    """Apply `rewrite` to keyword arguments and to the `model_kwargs` that `pipeline()` takes inside them."""
    result: dict[str, Any] = rewrite(kwargs)
    if isinstance(result.get("model_kwargs"), Mapping):
        result["model_kwargs"] = rewrite(result["model_kwargs"])
    return result


def with_order(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments in whose `device_map` what is kept comes last."""
    device_map = kwargs.get("device_map")
    if not isinstance(device_map, Mapping):  # text such as "auto"
        return dict(kwargs)
    ordered = sorted(device_map.items(), key=lambda entry: KEPT_LAST.get(str(entry[1]), 0))
    return {**kwargs, "device_map": dict(ordered)}


def _put(changed: dict[str, Any], takes: Takes, given: Mapping[str, Any], plan: Plan | None, *, whole: bool) -> None:
    """Write keyword arguments of loading, with the map of a `whole` plan. What is given stays where no policy asks."""
    if plan is None:
        if given:
            changed[takes.kwargs or ""] = dict(given)
        return
    loading = (to_pipeline_kwargs if takes.form == "pipeline" else to_hf_kwargs)(plan)
    loading = rewritten(loading if whole else _without(loading, _PLACES), lambda one: _unless_given(one, given, plan))
    kwargs = dict(given)
    if "dtype" in loading:
        kwargs = rewritten(kwargs, lambda one: _without(one, ("dtype", "torch_dtype")))
    inner = {**kwargs.get("model_kwargs", {}), **loading.get("model_kwargs", {})}
    changed[takes.kwargs or ""] = {**kwargs, **loading, **({"model_kwargs": inner} if inner else {})}


def _unless_given(loading: Mapping[str, Any], given: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return keyword arguments of a plan without those that were given and that no policy asks for."""
    asked = {_ARGUMENTS.get(key, key) for key, _ in plan.loading.asked} | ({"dtype"} if plan.loading.dtype else set())
    inner = given.get("model_kwargs")
    there = {*given, *(inner if isinstance(inner, Mapping) else ())}
    there |= {"dtype"} if "torch_dtype" in there else set()
    return {key: value for key, value in loading.items() if key in asked or key not in (there & _OWN)}


def _without_places(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return _without(kwargs, _PLACES)


def _without(kwargs: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in keys}


def _haystack(device: ComponentDevice) -> Any:
    from devpolicy._core.targets.haystack import unwarned

    return unwarned(device)


def _cuda(device: ComponentDevice) -> dict[str, Any]:
    one = _single(device)
    return {"cuda": True, "device_ids": [one.id or 0]} if one.type is DeviceType.GPU else {"cuda": False}


def _provider(device: ComponentDevice) -> dict[str, Any]:
    one = _single(device)
    if one.type is DeviceType.GPU:
        return {"provider": "CUDAExecutionProvider", "provider_options": {"device_id": one.id or 0}}
    return {"provider": "CPUExecutionProvider"}


def _layers(device: ComponentDevice) -> dict[str, Any]:
    one = _single(device)
    if one.type is DeviceType.GPU:
        return {"n_gpu_layers": _ALL_LAYERS, "main_gpu": one.id or 0, "split_mode": _ONE_GPU}
    return {"n_gpu_layers": 0 if one.type is DeviceType.CPU else _ALL_LAYERS}


def _single(device: ComponentDevice) -> Any:
    from devpolicy._core.device import Device

    return Device.from_str(device.to_torch_str())


def _told(value: Any) -> str:
    """Return a device of any library, or of a saved pipeline, as text."""
    if isinstance(value, ComponentDevice) or hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        plain = None if "type" in value else value  # a map of Transformers
        value = value.get("device") or value.get("device_map") or plain or None
    if isinstance(value, Mapping):
        return "a map over " + ", ".join(dict.fromkeys(_told(one) for one in value.values()))
    return f"cuda:{value}" if isinstance(value, int) else str(value or "a device that cannot be read")
