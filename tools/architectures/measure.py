"""One type of model: built tiny, run on the CPU, then divided by plans and by `device_map="auto"` on simulated devices.

Owns what is done to a type and the row that says what was seen. Each way of placing it runs in a process of its own:
some models keep tensors in their modules, which would meet those of another host.
"""

from __future__ import annotations

import copy
import gc
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tools.architectures.child import in_child
from tools.architectures.compare import cache_bytes, cache_of, difference, forward, kept, outputs
from tools.architectures.inputs import Inputs, attempts
from tools.architectures.tiny import TOKENS, tiny
from transformers.models.auto import modeling_auto

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import kv_caches
from devpolicy.testing import simulate_host

Row = dict[str, Any]
LARGEST = 200_000_000
"""Parameters beyond which a model is not tiny."""
_TASKS = (
    "FOR_IMAGE_TEXT_TO_TEXT", "FOR_MULTIMODAL_LM", "FOR_SPEECH_SEQ_2_SEQ", "FOR_SEQ_TO_SEQ_CAUSAL_LM", "FOR_CAUSAL_LM",
    "",
)  # fmt: skip
_HOST = Host(
    [Accelerator("cuda", memory="4 GiB", name="NVIDIA A100-SXM4-40GB", capability=(8, 0))] * 3,
    memory="16 GiB",
    disk="100 GiB",
)


_TOKENS = f"[workload]\ncontext = {TOKENS}\nbeams = 1\n"
_ONE = f'prefer = "cuda"\n{_TOKENS}'


def model_types() -> list[str]:
    """Return the types of models that generate, encode, or take several kinds of input, those that generate first."""
    of_tasks = [name for task in _TASKS for name in sorted(_mapping(task))]
    return list(dict.fromkeys(of_tasks))


def class_of(model_type: str) -> str:
    """Return the class of a type that does most: of images and text, of speech, of text, else the task-free one."""
    found = next(table[model_type] for task in _TASKS if model_type in (table := _mapping(task)))
    return found if isinstance(found, str) else found[0]


def _mapping(task: str) -> dict[str, Any]:
    return getattr(modeling_auto, f"MODEL_{task}_MAPPING_NAMES".replace("__", "_"))


def measure(model_type: str, *, place: bool = True) -> Row:
    """Return the row of a type; without `place` only what the CPU says of it."""
    architecture = class_of(model_type)
    row: Row = {"type": model_type, "class": architecture}
    with tempfile.TemporaryDirectory() as folder:
        try:
            cls = _built(model_type, architecture, folder)
            model = _on_cpu(cls, folder)
            row["parameters"] = sum(one.numel() for one in model.parameters())
            inputs = _running(model)
            reference = list(outputs(forward(model, inputs)))
            row["steady"] = not difference(list(outputs(forward(model, inputs))), reference)
            tree = ModelTree.from_module(model)
            row["counted"] = sum(size for _, size in kv_caches(tree, Workload(context=TOKENS, beams=1)))
            row["cache"] = sum(kept(model, inputs, counted=row["counted"] > 0).values())
            row |= {} if place else beams(model, inputs, tree)
            blocks = _blocks(model)
            del model
        except Exception as broken:  # noqa: BLE001
            return row | {"built": False, "error": told(broken), "at": _at(broken)}
        row["built"] = True
        if not place:
            return row
        ways: dict[str, Callable[[], Row]] = {
            name: lambda text=text: _by_plan(cls, folder, text, inputs, reference)
            for name, text in _policies(blocks, folder).items()
        }
        ways["auto"] = lambda: _by_auto(cls, folder, inputs, reference)
        for name, way in ways.items():
            row[name] = in_child(way)
            if "thread pool" in row[name].get("error", ""):  # torch's own may be lost in a fork
                row[name] = in_child(way)
        if row["balanced"].get("failed") == "forward":
            row["one"] = in_child(lambda: _by_plan(cls, folder, _ONE, inputs, reference))
    return row


def beside_the_cpu(model_type: str, host: Host, tolerance: float) -> Iterator[tuple[str, str]]:
    """Yield how a type's model is divided over a host that answers here, and what is wrong then, empty for nothing.

    For benchmarks/silicon.py, whose device may be a real one and sums in another order than the CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        cls = _built(model_type, class_of(model_type), folder)
        model = _on_cpu(cls, folder)
        inputs = _running(model)
        reference = list(outputs(forward(model, inputs)))
        for name, policy in _policies(_blocks(model), folder).items():
            made = plan(Policy.parse(policy), _untold(folder), host)
            placed = cls.from_pretrained(folder, **made.to_hf_kwargs()).eval()
            found = list(outputs(forward(placed, inputs, made.component_device.first_device.to_torch_str())))
            yield name, "; ".join([*map(str, made.verify(placed)), difference(found, reference, tolerance)]).strip("; ")


def beams(model: Any, inputs: Inputs, tree: ModelTree, count: int = 4) -> Row:
    """Return the bytes of the cache that generation with beams leaves, and those that are counted of it.

    Nothing of a model that does not generate; of one that does and fails here, why.
    """
    if not model.can_generate():
        return {}
    asked = {"num_beams": count, "do_sample": False, "min_new_tokens": 2, "max_new_tokens": 2, "use_cache": True}
    if model.config.is_encoder_decoder:
        asked["decoder_start_token_id"] = 1  # tiny configurations name none
    failed: Exception | None = None
    for given in (inputs, {key: one for key, one in inputs.items() if key != "decoder_input_ids"}):
        try:
            made = model.generate(**given, **asked, return_dict_in_generate=True)
            held = sum(cache_bytes(cache_of(made)).values())
            tokens = max(TOKENS + 1, made.sequences.shape[1])
        except Exception as broken:  # noqa: BLE001
            failed = failed or broken
            continue
        counted = sum(size for _, size in kv_caches(tree, Workload(context=tokens, beams=count)))
        return {"beams_cache": held, "beams_counted": counted}
    return {"beams_failed": told(failed) if failed else ""}


def told(broken: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(broken).split())
    return f"{type(broken).__name__}: {text[:300]}"


def _at(broken: BaseException) -> list[str]:
    frames = traceback.extract_tb(broken.__traceback__)[-3:]
    return [f"{frame.filename.partition('site-packages/')[2]}:{frame.lineno} {frame.line}" for frame in frames]


def _built(model_type: str, architecture: str, folder: str) -> Any:
    """Save a tiny model of a type, of the first of its configurations that can be built."""
    cls = getattr(transformers, architecture)
    first: Exception | None = None
    for make in tiny(model_type):
        try:
            config = make()
            count = _parameters(cls, config)
            if count > LARGEST:
                raise ValueError(f"not tiny: {count} parameters")
            torch.manual_seed(0)
            model = cls(config).eval()
            _running(model)
            model.save_pretrained(folder)
            return cls
        except Exception as broken:  # noqa: BLE001
            first = first or broken
    raise first or RuntimeError("no configuration")


def _parameters(cls: Any, config: Any) -> int:
    """Return how many parameters a configuration's model has, 0 where it cannot be built without weights."""
    try:
        with torch.device("meta"):
            return sum(one.numel() for one in cls(copy.deepcopy(config)).parameters())
    except Exception:  # noqa: BLE001 - some models compute with their weights when they are made
        return 0


def _running(model: Any) -> Inputs:
    """Return the first inputs that a model runs with. Raises what the plainest attempt raised."""
    first: Exception | None = None
    for inputs in attempts(model):
        try:
            forward(model, inputs)
            return inputs
        except Exception as broken:  # noqa: BLE001
            first = first or broken
    raise first or RuntimeError("no inputs")


def _on_cpu(cls: Any, folder: str) -> Any:
    """Load a model on the CPU, its weights copied: mapped from a file they lie otherwise, and sum in another order."""
    model = cls.from_pretrained(folder).eval()
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model


def _blocks(model: Any) -> tuple[str, int] | None:
    """Return the path of the largest list of modules, and how many it has."""
    lists = [
        (sum(one.numel() for one in module.parameters()), path, len(module))
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1
    ]
    return max(lists)[1:] if lists else None


def _policies(blocks: tuple[str, int] | None, folder: str) -> dict[str, str]:
    """Return the policies: divided over the GPUs, and with one block on the CPU and one on the disk."""
    balanced = 'prefer = "cuda"\nsplit = "balanced"\n'
    tail = f'{_TOKENS}[memory.disk]\npath = "{folder}/offload"\n'
    made = {"balanced": balanced + tail}
    if blocks is not None:
        path, count = blocks
        kept = f'[offload]\n"{path}.{count // 2 - 1}" = "cpu"\n"{path}.{count - 1}" = "disk"\n'
        made["mixed"] = f'{balanced}ties = "follow"\n{kept}{tail}'
    return made


def _by_plan(cls: Any, folder: str, policy: str, inputs: Inputs, reference: list[torch.Tensor]) -> Row:
    row: Row = {}
    step = "plan"
    with simulate_host(_HOST, depth="tensors"):
        try:
            made = plan(Policy.parse(policy), _untold(folder), _HOST)
            row |= _planned(made)
            step = "load"
            model = cls.from_pretrained(folder, **made.to_hf_kwargs()).eval()
            gc.collect()
            row["held"] = {name: torch.cuda.memory_allocated(name) for name in row["weights"]}
            row["load_peak"] = {name: torch.cuda.max_memory_allocated(name) for name in row["weights"]}
            row["verify"] = made.verify(model)[:3]
            step = "forward"
            main = made.component_device.first_device.to_torch_str()
            row["unlike"] = difference(list(outputs(forward(model, inputs, main))), reference)
            step = "cache"
            held = kept(model, inputs, main, counted=bool(row["kv_cache"]))
            row["cache"] = {name: size for name, size in held.items() if size}
        except Exception as broken:  # noqa: BLE001
            row |= {"failed": step, "error": told(broken), "at": _at(broken)}
            row["codes"] = [one.code for one in getattr(broken, "diagnostics", ())]
            broken.__traceback__ = None
        model = None
        gc.collect()
    return row


def _untold(folder: str) -> ModelTree:
    """Return a model without what an earlier sweep saw of its class, which would decide the plan."""
    tree = ModelTree.load(folder)
    return replace(tree, metadata=tuple(one for one in tree.metadata if one[0] != "divided"))


def _planned(made: Plan) -> Row:
    running = [name for name in made.ledger if name.startswith("cuda")]
    return {
        "devices": list(made.ledger),
        "weights": {name: made.ledger[name].weights for name in running},
        "kv_cache": {name: made.ledger[name].kv_cache for name in running if made.ledger[name].kv_cache},
        "load": {name: getattr(made.ledger[name], "load", 0) for name in running},
        "warnings": [one.code for one in made.warnings],
    }


def _by_auto(cls: Any, folder: str, inputs: Inputs, reference: list[torch.Tensor]) -> Row:
    """Load by `device_map="auto"`, with memory that makes it use several GPUs where it can."""
    total = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    row: Row = {}
    with simulate_host(_HOST, depth="tensors"):
        for share in (0.45, 0.7):
            step, model = "load", None
            try:
                memory = {0: int(total * share), 1: int(total * share), 2: 2 * total, "cpu": 10**9}
                asked = {"device_map": "auto", "max_memory": memory, "offload_folder": f"{folder}/auto"}
                model = cls.from_pretrained(folder, **asked).eval()
                step = "forward"
                found = list(model.hf_device_map.values())
                main = next((f"cuda:{one}" for one in found if isinstance(one, int)), "cpu")
                row = {"devices": sorted({str(one) for one in found})}
                row["unlike"] = difference(list(outputs(forward(model, inputs, main))), reference)
                if len(row["devices"]) > 1:
                    break
            except Exception as broken:  # noqa: BLE001
                row = row | {"failed": step, "error": told(broken), "at": _at(broken)}
                broken.__traceback__ = None
                if step == "forward":
                    break
            model = None
            gc.collect()
    return row
