"""Every diagnostic code: its title, and what it means.

Owns the text of `devpolicy explain CODE`. The hundreds are kinds: 1 shape and types, 2 names that
refer to nothing, 3 no device satisfies it on this host, 4 a consumer could not take it, 5 lint.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A code's one-line title and its explanation (what it means, an example, the way out)."""

    title: str
    explanation: str


CODES: dict[str, Code] = {
    "DP101": Code("not TOML", "The text breaks TOML's syntax at the place shown. Nothing else was checked."),
    "DP102": Code("wrong type", "A key takes a value of another type, for example text where a table stands."),
    "DP103": Code("unknown key", "The table has no such key. The likely one is suggested."),
    "DP104": Code("malformed value", "The value is of the right type and cannot be read: a size without a unit, a percentage over 100, an unknown word."),
    "DP105": Code("missing key", "A key that is needed is not there."),
    "DP106": Code("keys that do not go together", "Two keys exclude each other, or one needs another: a rule that selects nothing, does nothing, or does two things."),
    "DP107": Code("unknown schema version", "`schema` names a version of the language that this version of devpolicy does not read."),
    "DP108": Code("not yet", "The language has this key, and this version of devpolicy does not read it yet."),
    "DP109": Code("unreadable file", "The file cannot be opened."),
    "DP110": Code("a place in the wrong role", "`prefer` names where modules run, `overflow` and `offload` where weights are kept. Nothing runs on the disk, and nothing is kept for another accelerator."),
    "DP201": Code("unknown device", "A device term names no type of device."),
    "DP202": Code("unknown name", "No file, shipped policy, host or model has this name."),
    "DP203": Code("a tensor's path", "A pattern names a parameter or buffer. Rules speak of modules: name the module that holds it."),
    "DP301": Code("no preference can be satisfied", "No term of `prefer` has devices on this host that hold everything. Each term is listed with the reason, and the smallest change that would do."),
    "DP302": Code("a rule's devices do not serve", "The devices that a rule names are not on this host, are not of the plan's type, or have no room."),
    "DP303": Code("no room to keep", "Weights that are kept on the CPU or on disk do not fit there."),
    "DP304": Code("no such devices", "The host has no usable device that any term of `prefer` names."),
    "DP401": Code("tied tensors parted", "A rule sends one of several tied tensors elsewhere. They are one tensor: Transformers would fail to load or to run it. Send both, or set `ties` to \"follow\" or \"skip\"."),
    "DP402": Code("a folder is needed", "Weights that are kept on disk must be rewritten there (they are no safetensors, or loading converts them), and the policy names no folder: set `[memory.disk] path`."),
    "DP403": Code("a map that is read two ways", "transformers and accelerate would read the device map differently, and no deeper keys help. Rename the module or place both alike."),
    "DP404": Code("a block is cut", "A rule takes part of a block that must stay whole to another device, and the consumer cannot run the rest elsewhere."),
    "DP405": Code("the consumer cannot run it there", "Execution on the CPU beside an accelerator cannot be expressed in the consumer's form."),
    "DP406": Code("no place beside this device", "Weights cannot be kept on the CPU beside mps: accelerate would load them on mps. The disk can keep them."),
    "DP407": Code("structure not known in full", "The model was read from headers alone: without classes and ties no map can be promised."),
    "DP408": Code("a module that holds tensors itself", "A module with tensors of its own and with children is divided, and its own tensors would be kept on the CPU or on disk. Keep the whole module there, or none of it."),
    "DP409": Code("the consumer takes one device", "The plan needs several devices, and the consumer takes one."),
    "DP501": Code("a rule that matches nothing", "No module of this model is matched by the rule. With another model it may be."),
    "DP502": Code("a rule that never decides", "Every module that the rule matches is decided by earlier rules."),
}  # fmt: skip
