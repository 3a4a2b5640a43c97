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
        "The text breaks TOML's syntax at the place shown, or it is nested or counted beyond reason. Nothing else was "
        'checked. Most often quotes are missing: `prefer = cuda` is `prefer = "cuda"`, and a key with other '
        'characters than letters, digits, `-` and `_` is quoted too: `"model.layers.*" = "cpu"`.',
    ),
    "DP102": Code(
        "wrong type",
        'A key takes a value of another type: `batch = "4"` is text where a whole number belongs, `[rule]` a table '
        "where `[[rule]]` begins an entry of a list.",
    ),
    "DP103": Code(
        "unknown key",
        "The table has no such key. Where one is spelt alike, it is suggested; no key is ever ignored silently.",
    ),
    "DP104": Code(
        "malformed value",
        'The value is of the right type and cannot be read: a size without a unit (`"24"` for `"24 GiB"`), a '
        "percentage over 100, a range that ends before it begins (`{5..3}`), a word that the key does not know.",
    ),
    "DP105": Code(
        "missing key",
        "A key that is needed is not there. A policy needs `prefer`: where the model runs, at the top or in the "
        "component that is used. A component that is planned needs a model: one that is given, the policy's `model`, "
        "or the bytes that it `needs`.",
    ),
    "DP106": Code(
        "keys that do not go together",
        "Two keys exclude each other, or one needs another. A rule selects (`match`, `class`, `size`) and does one "
        "thing: `prefer` says where the modules run, `offload` where their weights are kept, `overflow` where those "
        "are kept that do not fit, `together = true` that they share a device, alone or with `prefer`. A component has "
        "a `model` or bytes that it `needs`; what only `needs` bytes has no modules that another key could select.",
    ),
    "DP107": Code(
        "unknown schema version",
        "`schema` names a version of the language that this version of devpolicy does not read. A file without "
        "`schema` is of version 1, always.",
    ),
    "DP109": Code(
        "unreadable file",
        "The file is there and is not read: a folder, a pipe or a device, or there is no permission to read it.",
    ),
    "DP110": Code(
        "a place in the wrong role",
        "`prefer` names where modules run, `overflow` and `offload` where weights are kept. Nothing runs on the disk: "
        '`prefer = "disk"` is likely `offload`. Nothing is stored on an accelerator: what is there, runs there, and '
        "`prefer` says so.",
    ),
    "DP111": Code(
        "given twice",
        "Two rules have one name, two entries of `[offload]` one pattern, or a class of `[devices]` has the name of a "
        "type. Explanations and tests name them, and could not tell them apart. Rules of two components may share a "
        "name; a component's and the policy's may not.",
    ),
    "DP112": Code(
        "a circle of policies",
        "`extends` leads back to a policy that is being read, or through more policies than anyone can follow. The "
        "note shows the way. What both need belongs into a third policy that both extend.",
    ),
    # Names that refer to nothing.
    "DP201": Code(
        "unknown device",
        "A device term names no type of device, and no class of `[devices]`. The types are torch's: `cuda` (AMD's GPUs "
        "too), `mps`, `xpu`, `npu`, "
        "`hpu`, and `cpu` and `disk`. One device is `cuda:1`, as torch counts in this process.",
    ),
    "DP202": Code(
        "unknown name",
        "No file, shipped policy, host or model has this name. Names without a path are looked up among what ships "
        "with devpolicy first, then as files. Or no component has it, in a policy that says nothing for others.",
    ),
    "DP203": Code(
        "a tensor's path",
        "A pattern names a parameter or a buffer, such as `lm_head.weight`. Rules select modules: name the module "
        "that holds it, `lm_head`.",
    ),
    "DP204": Code(
        "the hub does not give it",
        "A model that is named `hf://...` cannot be read from the hub: there is none of this name or revision, it is "
        "gated and needs a login, too much was asked, nothing is known of it offline, or the answer is not usable. A "
        "policy's file never reaches for the network: what it names `hf://...` is found where a command read it "
        "before (`devpolicy model show hf://org/name`).",
    ),
    # No device satisfies it on this host.
    "DP301": Code(
        "no preference can be satisfied",
        "No term of `prefer` has devices on this host that hold everything. Each term is listed with the reason, and "
        'the smallest change that would do. Often that is `overflow = "cpu"`, a shorter `[workload] context`, or a '
        "second term.",
    ),
    "DP302": Code(
        "no device of a rule fits",
        "The devices that a rule names are not on this host, are not of the plan's type, or have no room. "
        '`on_exhausted = "next"` lets the next rule decide instead.',
    ),
    "DP303": Code("no room to keep", "Weights that are stored on the CPU or on disk do not fit there."),
    "DP304": Code(
        "the host does not meet a requirement",
        "`[require]` names what a host must have, and this one has something else. Everything that is missing is told "
        "at once, each with what there is instead. Plan for another host, or ask for less: a bare number or size means "
        "at least.",
    ),
    "DP305": Code(
        "profiles that contradict each other",
        "Two profiles apply to this host by themselves, and both set one key. Neither is nearer, so nothing is chosen: "
        "let their `when` exclude each other, or ask for one of them by name (`--profile`).",
    ),
    "DP306": Code(
        "two classes disagree",
        "A device of this host belongs to two classes of `[devices]`, and `[memory]` says different things of them. "
        'Neither is more specific, so nothing is chosen: say it of the device itself (`[memory."cuda:0"]`), or let '
        "the classes exclude each other.",
    ),
    "DP307": Code(
        "passed over",
        "A choice of a wish is not tried: a model whose own limit is below the least `context`, a scheme that would "
        "become an earlier one here, or one that fits only where a wish gives way that is to give way later.",
    ),
    "DP308": Code(
        "no place in the fleet",
        "No node of the fleet has a place for a component, or for so many replicas of it: alone, or beside the others. "
        "The notes say what stood in the way on each kind of node, the help what the smallest change to a node or to "
        "the policy would be.",
    ),
    "DP309": Code(
        "a label that no node has",
        '`node = { labels = { zone = "a" } }` lets a component run only on nodes with that label, and no node of the '
        'fleet has it. Labels are given in the fleet file, `[node.NAME] labels = { zone = "a" }`; on a Ray cluster '
        "they are those of Ray.",
    ),
    # A consumer could not take it.
    "DP401": Code(
        "tied tensors parted",
        "A rule sends one of several tied tensors elsewhere. They are one tensor: Transformers would fail to load or "
        'to run it. Send both, or set `ties` to `"follow"` (the whole group goes) or `"skip"` (the rule does not '
        "apply).",
    ),
    "DP402": Code(
        "a folder is needed",
        "Weights that are stored on disk must be rewritten there (they are no safetensors, or loading converts them), "
        "and the policy names no folder: set `path` in `[memory.disk]`.",
    ),
    "DP403": Code(
        "a map that is read two ways",
        "transformers and accelerate would read the device map differently, and no deeper keys help. Rename the "
        "module, or place both alike.",
    ),
    "DP404": Code(
        "a block is cut",
        "A rule takes part of a block that must stay whole to another device, and the consumer cannot run the rest "
        "elsewhere.",
    ),
    "DP405": Code(
        "the consumer cannot run it there",
        "Execution on the CPU beside an accelerator cannot be expressed in the consumer's form.",
    ),
    "DP406": Code(
        "no place beside this device",
        "Weights cannot be stored on the CPU beside mps: accelerate would load them on mps. The disk can keep them.",
    ),
    "DP407": Code(
        "structure not known in full",
        "The model was read from headers alone, since its family is not known here: "
        'without classes and ties no map can be promised. One device needs no map: plan for `"torch"`.',
    ),
    "DP408": Code(
        "a module that holds tensors itself",
        "A module with tensors of its own and with children is divided, and its own tensors would be stored on the CPU "
        "or on disk: keep the whole module there, or none of it. Or a rule runs what the model itself holds beside "
        "the main device, where accelerate moves it: match the model's children (`*`) instead of the model (`**`).",
    ),
    "DP409": Code("the consumer takes one device", "The plan needs several devices, and the consumer takes one."),
    "DP410": Code(
        "the main device is left to chance",
        "Weights that are kept elsewhere are streamed to the main device, which accelerate takes from an unordered set "
        "of the devices of the map. For several devices that are not CUDA's, or CUDA ordinals of more than one group "
        "of eight (0 to 7, 8 to 15), it can be any of them, so no such map is written.",
    ),
    "DP411": Code(
        "nothing is left to run",
        "Rules keep every module on the CPU or on disk. A device map without a device that executes would run the "
        "model on the CPU, which `prefer` does not say. Leave some module out of the rules.",
    ),
    "DP412": Code(
        "a format that the consumer does not read",
        "The weights are in a file that the consumer does not load: only `hf` plans a GGUF file as Transformers loads "
        "it, dequantised to two or four bytes for each element, and only where Transformers can. The message says what "
        "it would take. Plan the checkpoint that the file was made from, or an engine that reads GGUF.",
    ),
    "DP413": Code(
        "float32 beside a smaller dtype, on disk",
        "Transformers keeps some weights of a model in float32 (T5's `wo` in float16), and what stays on the disk is "
        "read in the model's dtype: the answers would not be those of the model. The CPU keeps them as they are, "
        "so what a rule keeps on the disk is kept there without them, and they in RAM, with a warning. Where the CPU "
        "cannot keep them, and where `overflow` alone would put them on the disk, they are not kept there.",
    ),
    "DP414": Code(
        "activations that are not known",
        "The formula for activations is one of transformers, and the model is none: what it holds while it runs is not "
        "counted. Say how much it is: `[memory.TERM] reserve`.",
    ),
    "DP415": Code(
        "a checkpoint that is not all of its model",
        "Tensors of the checkpoint have no place in the class that is planned and are not loaded, or tensors of the "
        "class are not stored and are made anew. Say which class is loaded: `architecture`, `--architecture`.",
    ),
    "DP416": Code(
        "a way of loading that cannot be had",
        "What `[loading]` asks for is not known of this model, does not run on these devices, or is nothing that the "
        "consumer is told: it would load the model otherwise than it was planned. As a warning: whoever loads the "
        "model has to do it.",
    ),
    "DP417": Code(
        "quantised weights that cannot be loaded so",
        "The consumer does not load weights of this scheme, not on this host, or not in this place. The message says "
        "which, and the notes what the weights take as they are stored and as they would be dequantised. A scheme "
        "that nothing here knows is never guessed at: write what the component takes, as `needs`, in place of its "
        "model.",
    ),
    "DP418": Code(
        "quantised weights that are dequantised",
        "The checkpoint is quantised, and on this host the consumer turns its weights back into two bytes for each "
        "parameter: the device cannot run the scheme, or a package for it is missing. The plan is for these bytes, "
        "and the argument that makes it so is handed over. `[require]` can ask for what is missing.",
    ),
    "DP419": Code(
        "a class that was seen not to run divided",
        "A tiny model of this class was planned over simulated devices, and did not compute what it computes on one, "
        "with the versions that `docs/architectures.md` names. So it stays on one device, or keeps nothing on the CPU "
        "and the disk, and a plan that cannot do so is refused. Where only its bytes were not those that were counted, "
        "it is a warning: `devpolicy dry-run` says what a plan holds.",
    ),
    "DP422": Code(
        "a model that does not declare its blocks",
        "accelerate moves the inputs of modules, and nothing that a module computes between them. Classes of "
        "Transformers that were written for that say which blocks stay whole (`_no_split_modules`); this one does not, "
        "so a plan that divides it may not run. `devpolicy dry-run` tells.",
    ),
    "DP423": Code(
        "a map that is not known to run",
        "A device map says where tensors are, not that the code moves its inputs there. accelerate moves what modules "
        "are given; what the code around them computes it does not move. The class has parameters of its own "
        "beside its children, or rules run apart what meets, and nobody has tried it. "
        "`devpolicy dry-run` loads and runs it on simulated devices, and says where it fails.",
    ),
    "DP424": Code(
        "an engine that runs elsewhere than planned",
        "ONNX Runtime replaces a provider that is not there by the CPU, with a warning and no error. The session that "
        "was made runs on another device than the plan says: the installed package has no such provider, its libraries "
        "were not found, or the session was given none.",
    ),
    "DP425": Code(
        "a rule that frees nothing",
        "What is stored on the CPU or the disk is brought to the device that runs it, module by module, and the device "
        "has room for the largest of them. So a rule that keeps one module elsewhere frees nothing, however large it "
        "is. Leave the rule out, or keep several modules elsewhere: all but the largest of them are freed.",
    ),
    # Lint.
    "DP501": Code(
        "a rule that matches nothing",
        "No module of this model is matched by the rule. With another model it may be; with this one it is likely a "
        "slip in a path. For a rule of `[component.NAME]`, which is written for one model, it is an error.",
    ),
    "DP502": Code(
        "a rule that never decides",
        "Everything that the rule matches in this model is decided by rules written before it: the first that matches "
        'wins. They are named. Put the narrower rule first. A rule with `on_exhausted = "next"` shadows nothing, nor '
        "does one with another `when`, and what a nearer text, a profile or a component says is meant to come first.",
    ),
    "DP503": Code(
        "a device that is never used",
        'A device in a list is never tried, because an earlier one includes it (`"cuda:1"` after `"cuda"`), or '
        "because `avoid` rules it out.",
    ),
    "DP504": Code(
        "rules that are not applied",
        "Without a model only the device is chosen, and rules about modules have nothing to speak of. Give the model, "
        "and the whole plan is made.",
    ),
    "DP505": Code(
        "not the locked plan",
        "`devpolicy plan --locked FILE` made another plan than the one in the file: what the consumer is given has "
        "changed with the policy, the host, the model or devpolicy itself. What moved is listed. Where the change is "
        "wanted, write the file again: `devpolicy plan … --format json --output FILE`.",
    ),
    "DP506": Code(
        "a profile that is left open",
        "The `when` of a profile asks for `env.NAME`, and `plan` reads no environment, so the profile is left out. The "
        "commands and `use_policy` do read it. In Python, hand it in: `policy.for_host(host, environment=os.environ)`.",
    ),
    "DP507": Code(
        "a device with nearly no room",
        "A device was chosen by `prefer` alone, because nothing says how large the component is, and less than 1 GiB "
        "of it is left. Write the component's `model` or what it `needs`: then it is placed where it fits.",
    ),
    "DP508": Code(
        "a component that is likely misspelt",
        "The policy has no entry for the component, and one that is spelt nearly so. Without an entry, only the top of "
        "the policy speaks for it.",
    ),
    "DP509": Code(
        "what a component cannot be given",
        "A class of components takes less than its plan says: no dtype, say, or no device at all. What the component "
        "does not take is left to its own default, so it may use other memory, or another device, than planned.",
    ),
    "DP510": Code(
        "a name that the pipeline does not have",
        "The policy, or `components=`, names a component, and the pipeline has none of that name. A component inside "
        'another has the path to it for a name: `[component."agent.chat_generator"]`.',
    ),
    "DP511": Code(
        "a test that fails",
        "A `[[test]]` of a policy asserts something that is not so: a module is somewhere else, another rule decided "
        "it, a plan was made where a refusal was expected, or a property does not hold. The host, what was expected, "
        "what is so and what decided it are told; `devpolicy why` tells more.",
    ),
    "DP512": Code(
        "a property that does not hold",
        "`devpolicy verify` planned a family of hosts, and on one of them the property is broken. The smallest such "
        "host is printed as TOML with a `[[test]]` that fails on it: paste it into the policy, and the test says when "
        "it is mended. `monotone` is about two hosts, of which the second has more memory; `every_rule_reachable` is "
        "about all of them.",
    ),
    "DP520": Code(
        "a plan that does not run",
        "`devpolicy dry-run` loaded the model with the plan's own arguments on simulated devices and ran its code, and "
        "it failed: tensors on different devices met, a device had no memory left, or what was loaded is not what was "
        "planned. The module and its line are told. Keep on one device what meets there: a rule with "
        "`together = true`.",
    ),
    "DP521": Code(
        "more memory than the ledger has",
        "In a dry run a device held more than the plan counts for it. Activations are an estimate: set aside what was "
        "measured (`[memory.TERM] reserve`), or plan a smaller workload. What is run with another prompt or batch than "
        "the plan's holds other amounts.",
    ),
    "DP513": Code(
        "moved for an earlier wish",
        "A component is on a later term of `prefer` than it would be by itself, because components that are written "
        "before it were granted more than they need at least. Components are granted their wishes in written order; a "
        "later one is moved for that, and never refused.",
    ),
    "DP514": Code(
        "a device's number in a fleet",
        "The policy names a device by its number, `cuda:1`, and plans for several machines: that is another device on "
        "each of them. Name the type, or a class of `[devices]` by what the device is.",
    ),
    # What libraries see of this machine.
    "DP601": Code(
        "a library that cannot be asked",
        "`devpolicy doctor` asks each library in a process of its own. This one could not be imported, raised an "
        "error, crashed or did not answer in time. A program that uses it meets the same.",
    ),
    "DP602": Code(
        "no torch for this accelerator",
        "The machine has an accelerator, and torch is not installed, or built without its toolkit: from PyPI or an "
        "index for CPUs, most often. Everything that asks torch then runs on the CPU and says nothing.",
    ),
    "DP603": Code(
        "hidden GPUs",
        "The driver counts more GPUs than this process may see, because `CUDA_VISIBLE_DEVICES` says so. Ids count "
        "those that are left: `cuda:0` is the first entry of the list, not the first GPU of the machine.",
    ),
    "DP604": Code(
        "devices that only one counts",
        "Two sources count different devices. What plans with the longer list fails on what is not there; what plans "
        "with the shorter one leaves memory unused.",
    ),
    "DP605": Code(
        "an accelerator that does not work",
        "The accelerator is there, and asking it fails. Nothing is planned on it. Libraries that only count devices "
        "choose it all the same, and fail when they use it.",
    ),
    "DP606": Code(
        "libraries that choose differently",
        "Left to themselves, two libraries of one program would run on different devices, and tensors that go from one "
        "to the other fail or are copied. Name the device for each: a policy does it for all of them.",
    ),
    "DP607": Code(
        "memory that is counted differently",
        "A library counts memory that this process cannot have: that of the machine where a container has a limit, "
        "or that of another device. What is planned with the larger figure does not fit.",
    ),
}
