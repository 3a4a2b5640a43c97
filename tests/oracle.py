"""A naive statement of what a plan must be, short enough to read. It shares no code with the planner.

`decided` says which rule speaks for a module, `recount` what each device holds, `partitions` and `best_peak`
what contiguous placement can reach at best, `serving` what a term names on a host, `holds` a condition.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import combinations_with_replacement, pairwise, product
from math import prod
from operator import eq, ge, gt, le, lt
from typing import Any

from packaging.specifiers import SpecifierSet

from devpolicy._core.sizes import parse_size

ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int64": 8, "bool": 1}
ITEM |= dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1)


def ancestors(path: str) -> list[str]:
    """The module itself and every module above it."""
    parts = path.split(".") if path else []
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)]


def tensors(tree: Any) -> dict[str, tuple[str, Any]]:
    """Every tensor by its full name, with its module's path."""
    return {
        f"{module.path}.{tensor.name}" if module.path else tensor.name: (module.path, tensor)
        for module in tree.modules
        for tensor in module.tensors
    }


def size(tensor: Any, dtype: str | None = None) -> int:
    """Bytes of a tensor; in another `dtype` where it is a floating-point one that is stored or follows the model."""
    converted = dtype is not None and "float" in tensor.dtype and (tensor.persistent or tensor.follows)
    return int(prod(tensor.shape) * ITEM[dtype if converted and dtype else tensor.dtype])


def context_of(tree: Any, workload: Any) -> int:
    """Tokens of a sequence: as stated, else 4096 or what the model was made for; answer and prompt fit in it."""
    usual = min(4096, tree.context or 4096)
    return int(workload.context or max(usual, (workload.new_tokens or 0) + 1))


def scalar_bytes(tree: Any, workload: Any) -> int:
    """Bytes of a scalar in the dtype that the model computes in."""
    floats = [tensor.dtype for _, tensor in tensors(tree).values() if "float" in tensor.dtype and not tensor.buffer]
    return ITEM[workload.dtype or tree.dtype or next(iter(floats), "float32")]


def sequences(tree: Any, workload: Any) -> int:
    """Sequences at once: every beam of every one of the batch, as asked, else as the model's generation says."""
    return int(workload.batch) * int(workload.beams or tree.beams)


def activations(tree: Any, workload: Any) -> int:
    """Bytes that each device which executes something needs beside weights and KV cache."""
    tokens, size = context_of(tree, workload), scalar_bytes(tree, workload)
    number, scalars = sequences(tree, workload), int(tree.activation_elements_per_token)
    together = number * tokens if tree.step is None else min(number * tokens, max(tree.step, number))
    eager = tree.attention_bias or dict(tree.loading.attention).get("") == "eager"
    each = size + (12 if tree.attention_bias == "alibi" else 8)
    pair = tree.attention_heads and tree.attention_heads * each + 4 * size
    pair = (pair if eager else 0) + tree.beside.pair * size
    decoded = tree.beside.decoded + int(tree.activation_elements_per_token) if tree.loading.experts else 0
    held = max(
        together * (scalars * size + pair * tokens), number * tree.beside.sequence * size, number * decoded * size
    )
    return held + number * int(tree.logits_elements) * size


def compute_buffers(plan: Any, tree: Any) -> dict[str, int]:
    """Bytes of llama.cpp's compute buffer on each device, estimated: a micro-batch in float32, masks in float16.

    Logits are where the head runs, and the embedding's way to the first layer where that is. Another device has one
    more row where it has several layers, and where the first of them is divided; or where it has one layer behind such
    a one. Where the CPU has the first layers, it is all that are behind one that is divided, or in a mixture behind the
    CPU; and one more for several of which the first is divided. What the last matrix of experts multiplies is one more
    on an accelerator that has neither the layer nor all of its matrices, and several of another layer. An accelerator
    with no matrix of experts but gates has of each token five rows and what those give, or three and twice what experts
    give, or attention; and no further row. Nor has one with experts of one layer and parts of the next, its only own,
    and all experts of neither. There is one row more where a layer has up projections of experts and not their gates,
    and two where the head is with layers and not the last one, if its logits are what counts. Of the masks, and of what
    comes from another device, there are four where several devices work at once: not where the CPU computes too, or a
    layer is divided.
    """
    runs = {path: str(unit.runs_on) for path, unit in plan.placements.items()}
    beside = any(device == "cpu" for path, device in runs.items() if path != "token_embd")
    work = plan.workload
    layers: dict[str, set[str]] = {}
    for path, device in runs.items():
        if path.startswith("blk."):
            layers.setdefault(path.split(".")[1], set()).add(device)
    whole = not beside and all(len(on) == 1 for on in layers.values())
    several = len({*runs.values()} - {"cpu"}) > 1 and whole and work.pipelined and not work.kv_offload
    tokens = min(512, work.context * work.batch)
    shapes = {module.path: tensor.shape for module in tree.modules for tensor in module.tensors}
    wide, asks = (4 * tokens * shapes[name][side] for name, side in (("token_embd", 1), ("blk.0.attn.attn_q", 0)))
    mask = -(-work.context // 256) * 256 * tokens * 2
    each = 4 * tokens * tree.activation_elements_per_token + mask + 65536 + wide * (mask < wide)
    if work.kv_offload:  # a layer's cache comes to where attention is computed
        each += -(-work.context // 256) * 256 * tree.kv_cache[0].values * 2 + wide + asks
    experts = shapes.get("blk.0.ffn.exps.ffn_down_exps")
    least, attended, scores = each, 0, 0
    if experts and not work.kv_offload and work.kv_dtype != "float32":
        used, inner = (tree.reads[0].experts_per_token if tree.reads else experts[0]), experts[2]
        asked = sum(4 * tokens * shapes[f"blk.0.attn.attn_{one}"][0] for one in "qkv")
        attended, scores = 3 * wide + 2 * asked, 16 * tokens * experts[0]
        of_gates = max(5 * wide + 4 * tokens * used * inner, (3 + 2 * used) * wide, attended) + scores
        least -= max(0, 4 * tokens * tree.activation_elements_per_token - of_gates)
    found = {
        device: least if device != "cpu" and not _more_than_gates(runs, device) else each for device in runs.values()
    }
    narrow = {device for device, size in found.items() if size < each}
    found = {device: size + several * (3 * mask + 9 * wide + 65536) for device, size in found.items()}
    logits = 4 * tokens * tree.logits_elements + 4 * wide + mask + 65536
    if runs["output"] in narrow:
        logits, each = max(logits, logits - 4 * wide + attended + scores), least
    found[runs["output"]] += max(0, logits - each)
    row = wide * (mask >= wide)
    first, prefix = runs[next(path for path in runs if path.startswith("blk.0"))], layers["0"] == {"cpu"}
    mixture = any(module.class_name == "Experts" for module in tree.modules)
    order, joined = [layers[str(at)] for at in range(len(layers))], set[str]()
    for device in found.keys() - {first} - narrow - (_between_layers(runs, len(order)) if least < each else set()):
        own = [at for at, on in enumerate(order) if device in on]
        divided = [len(order[at - 1]) > 1 or (prefix and mixture and order[at - 1] == {"cpu"}) for at in own if at]
        if len(own) > 1 and not prefix:
            found[device] += row + wide * (len(order[own[0]]) > 1)
        else:
            found[device] += wide * any(divided) + row * (len(own) > 1 and len(order[own[0]]) > 1)
    of_experts = {path: on for path, on in runs.items() if path.endswith("exps")}
    several_of = {(path[:5], on) for path, on in of_experts.items() if path.endswith(".exps")}
    several_of |= {(path[:5], on) for path, on in runs.items() if path in (f"blk.{at}" for at in range(len(order)))}
    for path, device in of_experts.items():
        alike = [(other, on) for other, on in of_experts.items() if other.startswith(path[:5])]
        several_of |= {(path[:5], device)} if [on for _, on in alike].count(device) > 1 else set()
    for path, device in of_experts.items():
        others = {on for other, on in of_experts.items() if other.startswith(f"{path[:5]}.")}
        layer = next(on for other, on in runs.items() if other.startswith(f"{path[:5]}."))
        more = any(at != path[:5] and on == device for at, on in several_of)
        if path.endswith(".ffn_down_exps") and device not in ("cpu", layer) and len(others) > 1 and more:
            joined.add(device)
    up = {
        (path[:5], device)
        for path, device in of_experts.items()
        if path.endswith(".ffn_up_exps") and device == next(on for other, on in runs.items() if other[:5] == path[:5])
        if device not in (runs[path.replace("_up_", "_gate_")], "cpu")
    }
    for path, device in of_experts.items():
        layer = next(on for other, on in runs.items() if other.startswith(f"{path[:5]}."))
        if path.endswith(".ffn_down_exps") and device not in ("cpu", layer):
            joined |= {device for at, on in up if at != path[:5] and on == device}
    for device in {on for _, on in up} - narrow:
        found[device] += wide
    head, last = runs["output"], next(on for path, on in runs.items() if path.startswith(f"blk.{len(order) - 1}"))
    if head not in {last, *narrow} and any(head in on for on in order) and logits > each:
        found[head] += 2 * wide
    attention = [(path.split(".")[1], on) for path, on in runs.items() if ".attn" in path and "norm" not in path]
    if len({*attention}) > len({at for at, _ in attention}):  # no flash attention then: scores of all heads
        scores = 4 * tokens * tree.attention_heads * -(-work.context // 256) * 256 + 2 * mask + 2 * wide
        found = {device: size + scores for device, size in found.items()}
    for device in joined:
        (used, _, inner) = shapes["blk.0.ffn.exps.ffn_down_exps"]
        used = tree.reads[0].experts_per_token if tree.reads else used
        found[device] += max(0, 4 * tokens * used * inner - max(2, used) * wide)
    found[first] += max(wide, asks) - wide + row + wide * (runs["token_embd"] == first)
    return found


def _between_layers(runs: dict[str, str], layers: int) -> set[str]:
    """Devices with experts of one layer, the next one but for its experts, and all experts of neither."""
    found = set()
    for at in range(1, layers):
        parts = {path: on for path, on in runs.items() if path.split(".")[:2] == ["blk", str(at)]}
        homes = {on for path, on in parts.items() if not path.endswith("exps")}
        device = min(homes)
        touched = {path.split(".")[1] for path, on in runs.items() if on == device and path.startswith("blk.")}
        before = {path: on for path, on in runs.items() if path.split(".")[:2] == ["blk", str(at - 1)]}
        apart = all(path.endswith("_exps") for path, on in before.items() if on == device)
        some = [{on for path, on in of.items() if path.endswith("exps")} for of in (parts, before)]
        if homes == {device} and touched == {str(at - 1), str(at)} and apart and f"blk.{at}" not in parts:
            found |= {device} if {device} not in some else set()
    return found


def _more_than_gates(runs: dict[str, str], device: str) -> bool:
    """Whether a device computes of a layer's experts more than a part with their gates."""
    here = [path for path, on in runs.items() if on == device and path.startswith("blk.")]
    whole = (path.count(".") == 1 or path.endswith((".ffn", ".exps")) for path in here)
    return any(whole) or any(path.endswith(("_up_exps", "_down_exps")) for path in here)


def subtree(tree: Any, path: str) -> int:
    """Bytes of the parameters in a module's subtree, tied ones at their first name."""
    again = {name for group in tree.ties for name in group[1:]}
    return sum(
        size(tensor)
        for name, (module, tensor) in tensors(tree).items()
        if path in ancestors(module) and name not in again and not tensor.buffer
    )


def is_unit(tree: Any, path: str) -> bool:
    """Whether a module is placed as a whole where no rule cuts it; a rule that goes by size alone speaks of these."""

    classes = {module.path: module.class_name for module in tree.modules}
    lists = {"ModuleList", "ModuleDict", "Sequential"}

    def block(path: str) -> bool:
        if tree.no_split:
            return classes[path] in tree.no_split
        return path != "" and classes[path] not in lists and classes[ancestors(path)[1]] in lists

    def whole(path: str) -> bool:
        module = next(module for module in tree.modules if module.path == path)
        inner = [other for other in tree.modules if other.path != path and path in ancestors(other.path)]
        no_block_inside = not any(block(other.path) for other in inner)
        mixing = path != "" and no_block_inside and bool(module.tensors or not tree.no_split)
        return block(path) or not any(other.tensors for other in inner) or mixing

    return whole(path) and not any(whole(above) for above in ancestors(path)[1:])


def matches(rule: Any, tree: Any, path: str) -> bool:
    """Whether all that a rule asks holds for this one module."""
    cls = next(module.class_name for module in tree.modules if module.path == path)
    return (
        (not rule.match or any(pattern.matches(path) for pattern in rule.match))
        and (not rule.module_class or any(fnmatchcase(cls, glob) for glob in rule.module_class))
        and (rule.size is None or rule.size.holds(subtree(tree, path)))
        and (bool(rule.match or rule.module_class) or is_unit(tree, path))
    )


def decided(policy: Any, tree: Any, path: str) -> list[Any]:
    """The rules that speak for a module, in written order: own path and ancestors' alike, up to the first final one."""
    speaking = []
    for rule in policy.rules:
        if any(matches(rule, tree, above) for above in ancestors(path)):
            speaking.append(rule)
            if rule.on_exhausted == "error":
                break
    return speaking


def read(device_map: dict[str, Any], name: str) -> Any:
    """The device of a tensor: that of the longest key that is a dotted prefix of its name."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        key = ".".join(parts[:length])
        if key in device_map:
            return device_map[key]
    raise AssertionError(f"{name} has no device")


def recount(plan: Any, tree: Any, workload: Any) -> dict[str, dict[str, int]]:
    """What each device holds, from the device map and the tree: weights, KV cache and streaming buffer, in bytes."""
    form = plan.device.to_dict()
    device_map = form["device_map"] if "device_map" in form else {"": form["device"]}
    running = [device for device in device_map.values() if device not in ("cpu", "disk")]
    main = min(running, key=lambda device: int(device.partition(":")[2] or 0)) if running else "cpu"
    kept = {"cpu", "disk"} - {main}
    held: dict[str, dict[str, int]] = {}
    made: dict[str, int] = {}  # the largest tensor that loading makes of others on each device

    def add(device: str, what: str, count: int) -> None:
        entry = held.setdefault(device, {"weights": 0, "kv_cache": 0, "streaming": 0, "load": 0})
        entry[what] += count

    again = {name for group in tree.ties for name in group[1:]}
    streamed: dict[str, int] = {}
    for name, (module, tensor) in tensors(tree).items():
        device = read(device_map, name)
        if tensor.buffer:
            device = main if device in kept else device
        elif device in kept:
            streamed[module] = streamed.get(module, 0) + size(tensor, workload.dtype)
        add(device, "weights", 0 if name in again else size(tensor, workload.dtype))
        if tensor.merged:
            made[device] = max(made.get(device, 0), size(tensor, workload.dtype))
    tokens, scalar = context_of(tree, workload), scalar_bytes(tree, workload)
    order = [module.path for module in tree.modules]
    names = list(tensors(tree))
    for cache in tree.kv_cache:
        # A cache is where its module runs: as a key says, else where the next tensor in order is.
        where = cache.module
        if names and not any(above in device_map for above in ancestors(where)):
            behind = [name for name in names if order.index(tensors(tree)[name][0]) >= order.index(where)]
            where = (behind or names[-1:])[0]
        if names:
            device = read(device_map, where)
            length = min(tokens, cache.window) if cache.window else tokens
            each = ITEM[cache.dtype or workload.kv_dtype] if cache.dtype or workload.kv_dtype else scalar
            add(
                main if device in kept else device, "kv_cache", cache.values * length * sequences(tree, workload) * each
            )
    if streamed:
        # A module's own tensors are brought in for as long as it runs, and its children run meanwhile.
        at_once = [sum(streamed.get(above, 0) for above in ancestors(module)) for module in streamed]
        add(main, "streaming", max(at_once))
    made["cpu"] = max(made.get("cpu", 0), made.get("disk", 0))  # what is written to the disk is made there
    for device, entry in held.items():
        entry["load"] = entry["weights"] + (made.get(device, 0) if device != "disk" else 0)
    return held


def running(entry: dict[str, int]) -> int:
    """What a device holds while the model runs, without activations."""
    return entry["weights"] + entry["kv_cache"] + entry["streaming"]


def at_most(entry: dict[str, int]) -> int:
    """What a device holds at most, while the model is loaded or while it runs."""
    return max(running(entry), entry["load"])


def partitions(count: int, bins: int) -> list[tuple[int, ...]]:
    """Every way to cut a sequence of `count` into `bins` runs, in order, empty ones too: the end of each run."""
    return [(*cuts, count) for cuts in combinations_with_replacement(range(count + 1), bins - 1)]


def loads(sizes: list[int], ends: tuple[int, ...]) -> list[int]:
    return [sum(sizes[start:end]) for start, end in zip((0, *ends), ends, strict=False)]


def best_peak(sizes: list[int], budgets: list[int], most: int | None = None) -> Fraction | None:
    """The least possible largest share of a budget, over all partitions that fit and use at most `most` bins."""
    peaks = []
    for ends in partitions(len(sizes), len(budgets)):
        held = loads(sizes, ends)
        used = [at for at, (start, end) in enumerate(zip((0, *ends), ends, strict=False)) if end > start]
        if all(held[at] <= budgets[at] for at in used) and (most is None or len(used) <= most):
            peaks.append(max((Fraction(held[at], budgets[at]) for at in used if budgets[at]), default=Fraction(0)))
    return min(peaks, default=None)


def any_fits(sizes: list[int], budgets: list[int], allowed: list[list[int]] | None = None) -> bool:
    """Whether any assignment at all of a sequence to bins fits, in whatever order; `allowed` bins for each member."""
    bins = allowed or [list(range(len(budgets)))] * len(sizes)
    return any(
        all(sum(size for size, to in zip(sizes, where, strict=True) if to == at) <= budgets[at] for at in set(where))
        for where in product(*bins)
    )


COMPARE = {">=": ge, "<=": le, ">": gt, "<": lt, "==": eq}


def passes(test: Any, value: Any) -> bool:
    """Whether a value passes a comparison; none at all passes."""
    return test is None or (value is not None and COMPARE[test.operator](value, test.value))


def in_class(cls: Any, one: Any) -> bool:
    """Whether an accelerator passes every test of a class."""
    named = not cls.called or (one.name is not None and any(fnmatchcase(one.name, glob) for glob in cls.called))
    sizes = passes(cls.memory, one.memory) and passes(cls.free, one.free)
    return named and sizes and passes(cls.capability, one.capability) and (not cls.id or one.id in cls.id)


def meant(term: Any, one: Any) -> bool:
    """Whether a term speaks of an accelerator: by its type, its number or its class."""
    return (
        one.type == term.type
        and term.id in (None, one.id)
        and (term.device_class is None or in_class(term.device_class, one))
    )


def named(host: Any, term: Any) -> list[Any]:
    """The devices of an accelerator term that the host counts."""
    return [one for one in host.accelerators if meant(term, one)]


def avoided(policy: Any, host: Any, kind: str, number: int | None) -> bool:
    there = [one for one in host.accelerators if (one.type, one.id) == (kind, number)]
    return any(meant(term, there[0]) if there else term.type == kind for term in policy.avoid)


def largest(devices: list[Any], same: tuple[str, ...]) -> list[Any]:
    """The largest group of devices that agree in all that `same` names, the first of several."""
    groups = [
        [one for one in devices if all(getattr(one, key) == getattr(first, key) for key in same)] for first in devices
    ]
    return max(groups, key=len, default=[])


def serving(policy: Any, host: Any, term: Any) -> list[int | None] | str:
    """The ids of the devices that a term of `prefer` gives, or a word of the reason why there are none."""
    if term.type == "cpu":
        return "avoid" if avoided(policy, host, "cpu", None) else [None]
    faults = dict(host.faults)
    if term.type in faults:
        return str(faults[term.type])
    counted = named(host, term)
    if not counted:
        return "no device of the host" if term.device_class and host.devices(term.type) else "the host has no"
    working = [one for one in counted if not one.fault]
    if not working:
        return str(counted[0].fault)
    allowed = [one for one in working if not avoided(policy, host, one.type, one.id)]
    if not allowed:
        return "avoid"
    if not term.count:
        return [one.id for one in (largest(allowed, term.same) if term.same else allowed)]
    for first in allowed:
        alike = [one for one in allowed if all(getattr(one, key) == getattr(first, key) for key in term.same)]
        if len(alike) >= term.count:
            return [one.id for one in alike[: term.count]]
    return f"needs {term.count} devices"


def latency(
    plan: Any,
    tree: Any,
    speeds: dict[str, int],
    context: int,
    batch: int = 1,
    tokens: int = 256,
) -> Fraction:
    """Seconds that one token takes by the documented model, from the device map and the tree.

    `speeds` are bytes per second of each device that runs something, of `link` and of `disk`; a crossing takes 40 µs.
    """
    form = plan.device.to_dict()
    device_map = form["device_map"] if "device_map" in form else {"": form["device"]}
    running = [device for device in device_map.values() if device not in ("cpu", "disk")]
    main = min(running, key=lambda device: int(device.partition(":")[2] or 0)) if running else "cpu"
    kept = {"cpu", "disk"} - {main}
    classes = {module.path: module for module in tree.modules}
    time, walked = Fraction(0), []
    for name, (path, tensor) in tensors(tree).items():
        device = read(device_map, name)
        runs = main if device in kept else device
        if tensor.buffer:
            continue
        walked.append(runs)
        entries = [entry for entry in tree.reads if entry.module in ancestors(path)]
        parts, of = prod(entry.experts_per_token for entry in entries), prod(entry.num_experts for entry in entries)
        share = Fraction(min(parts * batch, of), of)
        if (
            classes[path].class_name.endswith("Embedding")
            and len(classes[path].tensors) == 1
            and len(tensor.shape) == 2
        ):
            share *= Fraction(min(batch, tensor.shape[0]), tensor.shape[0]) if tensor.shape[0] else 1
        often = Fraction(1, tokens) if any(entry.per_request for entry in entries) else Fraction(1)
        time += often * share * size(tensor) / speeds[runs]
        if device in kept:
            time += often * size(tensor) * (Fraction(1, speeds["link"]) if main != "cpu" else 0)
            time += often * Fraction(size(tensor), speeds["disk"]) if device == "disk" else 0
    found = tensors(tree)
    item = ITEM[tree.dtype or "float32"]
    for cache in tree.kv_cache:
        inside = next(read(device_map, name) for name, (path, _) in found.items() if cache.module in ancestors(path))
        runs = main if inside in kept else inside
        length = min(context, cache.window) if cache.window else context
        time += Fraction(cache.values * length * batch * ITEM.get(cache.dtype, item), speeds[runs])
    crossings = sum(one != other for one, other in pairwise(walked))
    return time + Fraction(crossings * 40_000, 10**9)


def compared(text: Any, value: Any, read: Any) -> bool:
    """Whether a value passes a comparison as it is written: a bare one means at least."""
    sign, rest = re.fullmatch("([<>=]*) *(.*)", str(text)).groups()  # type: ignore[union-attr]
    return value is not None and COMPARE[sign or ">="](value, read(rest))


def holds(condition: dict[str, Any], host: Any) -> bool:
    """Whether every key of a condition, as TOML gives it, holds on a host."""
    return all(_holds(key, value, host) for key, value in condition.items())


def _holds(key: str, value: Any, host: Any) -> bool:
    if key in ("os", "arch"):
        return getattr(host, key) in (value if isinstance(value, list) else [value])
    if key in ("memory", "free", "disk", "disk_free"):
        return compared(value, getattr(host, key), parse_size)
    if key not in ("cuda", "mps", "xpu", "npu", "hpu"):
        version = dict(host.versions).get(key)
        text = value if value[0] in "<>=" else f">={value}"
        return version is not None and SpecifierSet(text).contains(version, prereleases=True)
    asked = value if isinstance(value, dict) else {"count": value}
    good = [one for one in host.devices(key) if not one.fault and key not in dict(host.faults) and _asked(asked, one)]
    same = asked.get("same", [])
    good = largest(good, (same,) if isinstance(same, str) else tuple(same)) if same else good
    return compared(asked.get("count", 1), len(good), int)


def _asked(asked: dict[str, Any], one: Any) -> bool:
    def capability(text: str) -> tuple[int, int]:
        return int(text.partition(".")[0]), int(text.partition(".")[2] or 0)

    return (
        one.id in asked.get("id", [one.id])
        and ("name" not in asked or (one.name is not None and fnmatchcase(one.name, asked["name"])))
        and all(compared(asked[key], getattr(one, key), parse_size) for key in ("memory", "free") if key in asked)
        and ("capability" not in asked or compared(asked["capability"], one.capability, capability))
    )


def layers(policy: Any, component: str) -> list[Any]:
    """The entries that speak for a component whose class nobody knows: its own, then globs as written."""
    own = [entry for entry in policy.components if entry.name == component]
    globs = [entry for entry in policy.components if set(entry.name) & set("*?") and entry.type is None]
    return own + [entry for entry in globs if entry not in own and fnmatchcase(component, entry.name)]


def said(policy: Any, component: str, key: str) -> Any:
    """What the nearest layer says for a key: an entry, or the top of the policy."""
    found = [value for entry in layers(policy, component) if (value := getattr(entry, key)) is not None]
    return (*found, getattr(policy.top, key))[0]


def rules_of(policy: Any, component: str) -> list[Any]:
    """A component's rules: those of nearer layers first, the policy's last."""
    return [rule for entry in [*layers(policy, component), policy] for rule in entry.rules]


def avoided_by(policy: Any, component: str) -> set[Any]:
    return {term for entry in [*layers(policy, component), policy] for term in entry.avoid}


def figure(policy: Any, component: str, key: str) -> Any:
    """A key of `[workload]`, by the nearest layer that has it."""
    default = type(policy.workload)()
    own = [getattr(entry.workload or default, key) for entry in layers(policy, component)]
    return (*(value for value in own if value != getattr(default, key)), getattr(policy.workload, key))[0]


def budget(policy: Any, component: str, term: Any, key: str) -> Any:
    """What `[memory]` says of a device for a key, by the nearest layer that says it."""
    tables = [*(entry.memory.rules for entry in layers(policy, component)), policy.memory]
    found = [getattr(rule, key) for table in tables for rule in table if rule.term == term]
    return next((value for value in found if value is not None), None)


def order(policy: Any, given: list[str]) -> list[str]:
    """The order of planning: as written, a glob's components at the glob, unknown ones last, as given."""
    result: list[str] = []
    for entry in policy.components:
        if not set(entry.name) & set("*?"):
            result.append(entry.name)
            continue
        named = [other.name for other in policy.components]
        result += [name for name in given if name not in named + result and fnmatchcase(name, entry.name)]
    return result + [name for name in given if name not in result]


# Overlays, on what TOML gives.


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def paths(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The entries of `[offload]` by dotted path, however they are nested."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= paths(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def caps(table: dict[str, Any]) -> dict[str, Any]:
    """`[memory]`, with a bare cap as the table that it stands for."""
    return {key: value if isinstance(value, dict) else {"cap": value} for key, value in table.items()}


def laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One table over another: tables by key, lists replace, `avoid` adds up, rules nearer first."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if key == "avoid":
            result[key] = [*listed(old or []), *listed(value)]
        elif key == "rule":
            result[key] = [*value, *(old or [])]
        elif key == "offload":
            result[key] = {**paths(old or {}), **paths(value)}
        elif key == "memory" and isinstance(value, dict):
            result[key] = laid(caps(old or {}), caps(value))
        else:
            tables = isinstance(old, dict) and isinstance(value, dict) and key != "prefer"
            result[key] = laid(old, value) if tables else value
    return result


def keys_set(table: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The keys that a profile sets, without those that only add."""
    found: set[tuple[str, ...]] = set()
    for key, value in table.items():
        here = (*above, key)
        if key in ("avoid", "rule", "when"):
            continue
        if key == "offload":
            found |= {(*here, path) for path in paths(value)}
        elif isinstance(value, dict) and key != "prefer":
            found |= keys_set(caps(value) if key == "memory" else value, here)
        else:
            found.add(here)
    return found


def applying(profiles: dict[str, Any], host: Any, environment: dict[str, str], asked: str | None) -> list[str]:
    """The profiles that apply, the one that is asked for last."""

    def agrees(when: dict[str, Any]) -> bool:
        variables = when.get("env", {})
        there = all(bool(environment.get(name)) is wanted for name, wanted in variables.items())
        return there and holds({key: value for key, value in when.items() if key != "env"}, host)

    found = [name for name, table in profiles.items() if "when" in table and name != asked and agrees(table["when"])]
    return [*found, *([asked] if asked else [])]
