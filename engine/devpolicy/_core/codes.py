"""Every diagnostic code: its title, and what it means.

Owns the text of `devpolicy explain CODE`. The hundreds are kinds: 1 shape and types, 2 names that
refer to nothing, 3 no device satisfies it on this host, 4 a consumer could not take it, 5 lint, 6 what
libraries see of this machine.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A code's one-line title and its explanation (what it means, an example, the way out)."""

    title: str
    explanation: str


CODES: dict[str, Code] = {
    # Shape and types.
    "DP101": Code(
        "not TOML",
        "The text breaks TOML's syntax at the place shown, or it exceeds a limit of depth or size. Nothing else "
        'was checked. Often quotes are missing: `prefer = cuda` must be `prefer = "cuda"`. Quote a key that has '
        'other characters than letters, digits, `-` and `_`: `"model.layers.*" = "cpu"`.',
    ),
    "DP102": Code(
        "wrong type",
        'The key takes a value of another type. For example, `batch = "4"` is text, and the key takes a whole '
        "number. `[rule]` is a table, and `[[rule]]` is an entry of a list.",
    ),
    "DP103": Code(
        "unknown key",
        "The table has no such key. If a key with a similar name exists, it is suggested. No unknown key is ignored.",
    ),
    "DP104": Code(
        "malformed value",
        'The value has the right type but cannot be read: a size without a unit (`"24"` instead of `"24 GiB"`), a '
        "percentage over 100, a range that ends before it begins (`{5..3}`), or a word that the key does not know.",
    ),
    "DP105": Code(
        "missing key",
        "A required key is missing. A policy needs `prefer`, at the top or in the component that is used. A "
        "component needs a model: an argument, the policy's `model`, or the bytes that it `needs`.",
    ),
    "DP106": Code(
        "keys that do not go together",
        "Two keys exclude each other, or one needs another. A rule selects modules (`match`, `class`, `size`) and "
        "does one thing: `prefer` sets where they run, `offload` where their weights are stored, `overflow` where "
        "weights go that do not fit, and `together = true` keeps them on one device, alone or with `prefer`. A "
        "component has a `model`, or bytes that it `needs`. With `needs` it has no modules that another key could "
        "select.",
    ),
    "DP107": Code(
        "unknown schema version",
        "`schema` names a version of the language that this devpolicy cannot read. A file without `schema` has "
        "version 1.",
    ),
    "DP109": Code(
        "unreadable file",
        "The file exists but cannot be read: it is a folder, a pipe or a device, or you have no permission.",
    ),
    "DP110": Code(
        "a device in the wrong role",
        "`prefer` names devices that run modules. `overflow` and `offload` name devices that store weights. No "
        'module runs on the disk: instead of `prefer = "disk"`, use `offload`. To put modules on an accelerator, '
        "use `prefer`, not `offload`.",
    ),
    "DP111": Code(
        "given twice",
        "Two rules have one name, two entries of `[offload]` have one pattern, or a class of `[devices]` has the "
        "name of a device type. Explanations and tests use these names, so each must be unique. Rules of two "
        "components may share a name; a rule of a component and a rule of the policy may not.",
    ),
    "DP112": Code(
        "a cycle of policies",
        "`extends` leads back to a policy that is being read, or the chain of policies is too long. The note shows "
        "the chain. Move the shared part into a third policy that both extend.",
    ),
    # Names that refer to nothing.
    "DP201": Code(
        "unknown device",
        "The name is neither a device type nor a class of `[devices]`. The types are torch's: `cuda` (also AMD's "
        "GPUs), `mps`, `xpu`, `npu`, `hpu`, `cpu` and `disk`. `cuda:1` names one device, by torch's numbers in "
        "this process.",
    ),
    "DP202": Code(
        "unknown name",
        "No file, policy, host, model or component has this name. A name without a path is first looked up among "
        "those that ship with devpolicy, then as a file.",
    ),
    "DP203": Code(
        "a tensor's path",
        "The pattern names a parameter or a buffer, such as `lm_head.weight`. Rules select modules. Name the "
        "module that holds it: `lm_head`.",
    ),
    "DP204": Code(
        "not available from the hub",
        "devpolicy cannot read this `hf://...` model from the hub. The name or revision does not exist, the model "
        "needs a login, the hub refused because of too many requests, the machine is offline, or the answer is not "
        "usable. A policy file never uses the network: first read the model with a command, such as `devpolicy "
        "model show hf://org/name`.",
    ),
    # No device satisfies it on this host.
    "DP301": Code(
        "no preference can be satisfied",
        "No entry of `prefer` has devices on this host that hold everything. Each entry is listed with its reason, "
        'and with the smallest change that helps. Often that is `overflow = "cpu"`, a shorter `[workload] '
        "context`, or a second entry.",
    ),
    "DP302": Code(
        "no device of a rule fits",
        "The devices that the rule names are not on this host, have another type than the plan's, or have no room. "
        'With `on_exhausted = "next"`, the next rule applies instead.',
    ),
    "DP303": Code(
        "no room for offloaded weights",
        "Weights that the policy stores on the CPU or the disk do not fit there.",
    ),
    "DP304": Code(
        "the host does not meet a requirement",
        "`[require]` names conditions that this host does not meet. All of them are listed, each with the host's "
        'own value. Plan for another host, or require less. A bare number or size means "at least".',
    ),
    "DP305": Code(
        "profiles that contradict each other",
        "Two profiles apply to this host automatically, and both set one key. Neither takes precedence, so "
        "devpolicy does not choose. Make their `when` exclusive, or select one by name (`--profile`).",
    ),
    "DP306": Code(
        "two classes disagree",
        "A device of this host belongs to two classes of `[devices]`, and `[memory]` sets different values for "
        "them. Neither takes precedence, so devpolicy does not choose. Set the value for the device itself "
        '(`[memory."cuda:0"]`), or make the classes exclusive.',
    ),
    "DP307": Code(
        "a choice that was not tried",
        "devpolicy skipped one choice of a wish. The model's own limit is below the least `context`, the scheme "
        "becomes the same as an earlier one on this host, or the choice fits only if a later wish gives way.",
    ),
    "DP308": Code(
        "no node of the fleet fits",
        "No node of the fleet has room for a component, or for so many replicas of it, alone or beside the others. "
        "The notes give the reason for each kind of node. The help gives the smallest change to a node or to the "
        "policy.",
    ),
    "DP309": Code(
        "a label that no node has",
        '`node = { labels = { zone = "a" } }` restricts a component to nodes with this label, and no node of the '
        'fleet has it. Set labels in the fleet file: `[node.NAME] labels = { zone = "a" }`. On a Ray cluster they '
        "are Ray's labels.",
    ),
    # A consumer could not take it.
    "DP401": Code(
        "tied tensors apart",
        "A rule offloads one of several tied tensors. They are one tensor, and Transformers would fail to load or "
        'to run it. Offload all of them, or set `ties`: `"follow"` offloads the whole group, `"skip"` ignores the '
        "rule for it.",
    ),
    "DP402": Code(
        "a folder is needed",
        "Weights for the disk must be rewritten, because they are not in safetensors or because loading converts "
        "them. The policy names no folder for this. Set `path` in `[memory.disk]`.",
    ),
    "DP403": Code(
        "an ambiguous device map",
        "Transformers and accelerate would read the device map differently, and deeper keys do not help. Rename "
        "the module, or place both modules on one device.",
    ),
    "DP404": Code(
        "a divided block",
        "A rule moves a part of a block to another device. The block must stay whole, and the consumer cannot run "
        "the rest elsewhere.",
    ),
    "DP405": Code(
        "execution that the consumer cannot express",
        "The consumer has no form for modules that run on the CPU beside an accelerator.",
    ),
    "DP406": Code(
        "no offload beside this device",
        "Weights cannot be stored on the CPU beside mps, because accelerate would load them on mps. Store them on "
        "the disk.",
    ),
    "DP407": Code(
        "structure not known in full",
        "devpolicy read only the headers of the model, because it does not know the family. Without classes and "
        "ties it cannot make a device map. A plan for one device needs no map: use `--target torch`.",
    ),
    "DP408": Code(
        "a module that holds tensors itself",
        "The module has tensors of its own and children, and a rule divides it. Its own tensors would be stored on "
        "the CPU or the disk: offload the whole module, or none of it. Or a rule moves the model's own tensors off "
        "the main device, and accelerate moves them back: match the model's children (`*`) instead of the model "
        "(`**`).",
    ),
    "DP409": Code(
        "the consumer takes one device",
        "The plan needs several devices, and the consumer takes only one.",
    ),
    "DP410": Code(
        "the main device is left to chance",
        "Offloaded weights are brought to the main device. accelerate picks it from an unordered set of the map's "
        "devices. With several devices of another type than CUDA, or with CUDA ordinals of more than one group of "
        "eight (0 to 7, 8 to 15), any of them could be picked. So no such map is written.",
    ),
    "DP411": Code(
        "no module executes on a device",
        "Rules offload every module to the CPU or the disk. With such a device map the model would run on the CPU, "
        "and `prefer` does not allow that. Leave at least one module out of the rules.",
    ),
    "DP412": Code(
        "a format that the consumer does not read",
        "The consumer cannot load the file that holds the weights. Only `hf` plans a GGUF file as Transformers "
        "loads it: dequantised to two or four bytes for each element, if Transformers supports the file. The "
        "message gives these bytes. Plan the checkpoint that the file was made from, or use an engine that reads "
        "GGUF.",
    ),
    "DP413": Code(
        "float32 beside a smaller dtype, on disk",
        "Transformers keeps some weights in float32, such as T5's `wo` in float16. Weights on the disk are read in "
        "the model's dtype, which would change the model's answers. The CPU keeps the dtype. So if a rule stores "
        "modules on the disk, these weights go to RAM, with a warning. If the CPU has no room, or if only "
        "`overflow` would use the disk, they are not offloaded.",
    ),
    "DP414": Code(
        "activations that are not known",
        "The formula for activations is for models of Transformers, and this model is none. So its activations are "
        "not counted. Set their size with `[memory.TERM] reserve`.",
    ),
    "DP415": Code(
        "a checkpoint that is not all of its model",
        "The checkpoint and the planned class differ. Some tensors of the checkpoint are not in the class and are "
        "not loaded, or some tensors of the class are not stored and are initialised. Name the class that you "
        "load: `architecture`, `--architecture`.",
    ),
    "DP416": Code(
        "a loading option that is not available",
        "A setting of `[loading]` is not known for this model, does not run on these devices, or cannot be passed "
        "to the consumer. The model would be loaded in another way than planned. If it is a warning, apply the "
        "setting yourself when you load the model.",
    ),
    "DP417": Code(
        "quantised weights that cannot be loaded",
        "The consumer does not load weights of this scheme, or not on this host or device, or no plan is made of them "
        "for it. The notes give the bytes as stored and as dequantised. devpolicy does not guess the size of an "
        "unknown scheme: write the component's size as `needs` instead of its model.",
    ),
    "DP418": Code(
        "quantised weights that are held in full",
        "The checkpoint is quantised, and on this host the consumer dequantises it to two bytes for each "
        "parameter, because the device cannot run the scheme or a package is missing. The plan counts these bytes, "
        "and passes the argument that forces it. Use `[require]` to make the missing part a condition. Or the scheme "
        "is for linear modules alone, and the model has experts, which the consumer holds in full.",
    ),
    "DP419": Code(
        "a class that failed when divided",
        "A tiny model of this class was divided over simulated devices, and its output was not that of one device. "
        "`docs/architectures.md` names the versions. So the model stays on one device, or without offloads to the "
        "CPU and the disk; if that is not possible, the plan is refused. If only its bytes differed, this is a "
        "warning: `devpolicy dry-run` measures the bytes.",
    ),
    "DP422": Code(
        "a model that does not declare its blocks",
        "accelerate moves the inputs of modules, and nothing that a module computes between them. Classes of "
        "Transformers that support this list the blocks that stay whole (`_no_split_modules`). This class lists "
        "none, so a divided plan may fail. Try it with `devpolicy dry-run`.",
    ),
    "DP423": Code(
        "a map that is not known to run",
        "accelerate moves the inputs of modules, and no values that the code around them computes. This class has "
        "parameters of its own beside its children, or rules divide modules that exchange values. Nobody has tried "
        "this division. `devpolicy dry-run` runs it on simulated devices, and shows where it fails.",
    ),
    "DP424": Code(
        "an engine that runs elsewhere than planned",
        "ONNX Runtime replaces a missing provider by the CPU, with a warning and no error. So this session runs on "
        "another device than planned: the installed package has no such provider, its libraries were not found, or "
        "the session was given no provider.",
    ),
    "DP425": Code(
        "a rule that frees nothing",
        "Offloaded weights are brought to the device that runs them, module by module, and the device keeps room for "
        "the largest module. So a rule that offloads one module frees nothing, however large it is. Leave the rule "
        "out, or offload several modules: all but the largest of them are freed.",
    ),
    # Lint.
    "DP501": Code(
        "a rule that matches nothing",
        "The rule matches no module of this model. Check the path for a mistake. Another model may have such "
        "modules. In `[component.NAME]`, which is for one model, this is an error.",
    ),
    "DP502": Code(
        "a rule that never applies",
        "Earlier rules already match all modules of this rule, and the first match applies. The message names "
        "these rules. Put the narrower rule first. Some overlaps are intended, and not reported: with rules that "
        'have `on_exhausted = "next"` or another `when`, and with rules of a more specific layer, profile or '
        "component.",
    ),
    "DP503": Code(
        "a device that is never used",
        'A device in a list is never tried. An earlier entry includes it (`"cuda:1"` after `"cuda"`), or `avoid` '
        "excludes it.",
    ),
    "DP504": Code(
        "rules that are not applied",
        "Without a model, only the device is chosen, and rules about modules have no effect. Name the model to get "
        "the whole plan.",
    ),
    "DP505": Code(
        "not the locked plan",
        "`devpolicy plan --locked FILE` made another plan than the one in the file. The policy, the host, the "
        "model or devpolicy itself has changed. The differences are listed. If you want the change, write the file "
        "again: `devpolicy plan … --format json --output FILE`.",
    ),
    "DP506": Code(
        "a profile that is left open",
        "The `when` of a profile uses `env.NAME`. `plan` reads no environment, so the profile was left out. The "
        "commands and `use_policy` do read it. In Python, pass it: `policy.for_host(host, environment=os.environ)`.",
    ),
    "DP507": Code(
        "a device with nearly no room",
        "`prefer` alone chose this device, because the size of the component is not known, and the device has less "
        "than 1 GiB left. Set the component's `model` or `needs`; it is then placed where it fits.",
    ),
    "DP508": Code(
        "a component that is likely misspelt",
        "The policy has no entry for this component, and it has one with a similar name. Without an entry, only "
        "the top level of the policy applies.",
    ),
    "DP509": Code(
        "a setting that a component does not take",
        "This class of components does not take everything that its plan sets: it has no dtype, for example, or no "
        "device at all, or none of a type that is written. Or its size is not known, so there is no plan that sets "
        "more than the device. It uses its own default, so it may use other memory, or another device, than planned.",
    ),
    "DP510": Code(
        "a name that the pipeline does not have",
        "The policy, or `components=`, names a component that the pipeline does not have. The name of a component "
        'inside another one is its path: `[component."agent.chat_generator"]`.',
    ),
    "DP511": Code(
        "a test that fails",
        "A `[[test]]` of a policy failed: a module is on another device, another rule applied, a plan was made "
        "although a refusal was expected, or a property does not hold. The error shows the host, the expectation, "
        "the result and its reason. `devpolicy why` shows more.",
    ),
    "DP512": Code(
        "a property that does not hold",
        "`devpolicy verify` planned a family of hosts, and the property fails on one of them. The smallest such "
        "host is printed as TOML, with a `[[test]]` that fails on it. Paste both into the policy; the test passes "
        "when the policy is mended. `monotone` compares two hosts, the second with more memory; "
        "`every_rule_reachable` concerns all hosts.",
    ),
    "DP520": Code(
        "a plan that does not run",
        "`devpolicy dry-run` loaded the model with the plan's arguments on simulated devices, and it failed: "
        "tensors on different devices met, a device had no memory left, or something else was loaded than planned. "
        "The error names the module and its line. Keep modules whose tensors meet on one device, with a rule that "
        "has `together = true`.",
    ),
    "DP521": Code(
        "more memory than the ledger has",
        "In a dry run, a device held more bytes than the plan counts. Activations are an estimate: reserve the "
        "measured size (`[memory.TERM] reserve`), or plan a smaller workload. A run with another prompt or batch "
        "than planned also holds other amounts.",
    ),
    "DP513": Code(
        "moved for an earlier wish",
        "The component is on a later entry of `prefer` than it would be alone. Components that are written before "
        "it were granted more than they need at least. Wishes are granted in the order of the policy. A later "
        "component may be moved for that, and is never refused for it.",
    ),
    "DP514": Code(
        "a device's number in a fleet",
        "The policy names a device by its number, such as `cuda:1`, and the plan is for several machines, where "
        "that is another device on each. Name the device type, or a class of `[devices]`.",
    ),
    # What libraries see of this machine.
    "DP601": Code(
        "a library that cannot be asked",
        "`devpolicy doctor` asks each library in a process of its own. This library could not be imported, raised "
        "an error, crashed, or did not answer in time. A program that uses it will have the same problem.",
    ),
    "DP602": Code(
        "no torch for this accelerator",
        "The machine has an accelerator, and torch is missing, or was built without the accelerator's toolkit. "
        "Often it came from PyPI or from an index for CPUs. Everything that uses torch then runs on the CPU, "
        "without a message.",
    ),
    "DP603": Code(
        "hidden GPUs",
        "The driver counts more GPUs than this process may use, because `CUDA_VISIBLE_DEVICES` hides some. Ids "
        "count only visible GPUs: `cuda:0` is the first entry of that list, not the first GPU of the machine.",
    ),
    "DP604": Code(
        "devices that only one counts",
        "Two sources count different devices. A plan from the longer list fails on devices that are missing. A "
        "plan from the shorter list leaves memory unused.",
    ),
    "DP605": Code(
        "an accelerator that does not work",
        "The accelerator exists, but it does not respond properly. Nothing is planned on it. Libraries that only "
        "count devices still choose it, and fail when they use it.",
    ),
    "DP606": Code(
        "libraries that choose differently",
        "By default, two libraries of one program would use different devices. Tensors that pass from one to the "
        "other are copied, or cause an error. Set the device for each library; a policy does this for all of them.",
    ),
    "DP607": Code(
        "memory that is counted differently",
        "A library counts memory that this process cannot use: that of the whole machine although a container has "
        "a limit, or that of another device. A plan with the larger figure does not fit.",
    ),
}
