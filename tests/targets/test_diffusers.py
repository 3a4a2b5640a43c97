"""diffusers: pipelines planned by component, or by a mode of streaming, and run so on simulated devices."""

from __future__ import annotations

import gc
import json
import warnings

import pytest
from tests.cli.harness import invoke
from tests.targets import pipelines

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.model.pipelines import known_pipelines
from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import DevPolicyError, ModelError, SimulationDepthError, Unsatisfiable
from devpolicy.targets import diffusers_settings, place_pipeline
from devpolicy.testing import simulate_host

pytest.importorskip("diffusers")
PARTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
EXACT = 'prefer = "cuda"\nmemory.cuda = { headroom = 0, basis = "total", reserve = { activations = 0 } }\n'
STREAMED = Policy.parse(EXACT + 'overflow = "cpu"\nsplit = "never"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipelines.saved(tmp_path_factory.mktemp("pipeline") / "flux")


@pytest.fixture(scope="module")
def sizes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pipelines.flux()
    return {name: held(module) for name, module in made.components.items() if hasattr(module, "parameters")}


def held(module):
    return sum(one.numel() * one.element_size() for one in [*module.parameters(), *module.buffers()])


def cards(*sizes):
    return Host([Accelerator("cuda", memory=size) for size in sizes], memory="16 GiB")


def test_a_folder_is_its_components(folder, sizes):
    tree = ModelTree.load(folder)
    assert tree.format == "diffusers"
    assert tree.modules[0].class_name == "FluxPipeline"
    assert {name for name in tree.index if name and "." not in name} == set(PARTS)
    assert dict(tree.loading.dtypes) == {
        "transformer": "bfloat16", "text_encoder_2": "bfloat16", "text_encoder": "float32", "vae": "float32"
    }  # fmt: skip
    made = plan(Policy.parse(EXACT), tree, cards("24 GiB"))
    assert {name: unit.bytes for name, unit in made.placements.items()} == sizes
    assert ModelTree.parse(tree.to_toml()) == tree


def test_an_object_is_the_same_model(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = pipelines.flux()
    ours, theirs = (plan(Policy.parse(EXACT), model, "2x24gb") for model in (folder, pipeline))
    assert {name: unit.bytes for name, unit in ours.placements.items()} == {
        name: unit.bytes for name, unit in theirs.placements.items()
    }
    assert theirs.target == "diffusers"


@pytest.fixture(scope="module", name="by_mode")
def plans_by_mode(folder):
    """The plans of one pipeline on ever smaller cards: everything, a component, a group, a module at a time."""
    tree, found = ModelTree.load(folder), {}
    size = sum(unit.bytes for unit in plan(Policy.parse(EXACT), tree, cards("1 GiB")).placements.values())
    while True:
        try:
            made = plan(STREAMED, tree, cards(size))
        except Unsatisfiable:
            return found
        found.setdefault(made.streaming, made)
        size = size * 9 // 10


def test_modes_come_in_order_and_hold_ever_less(by_mode, sizes):
    made = by_mode
    assert list(made) == [None, "model", "group", "sequential"]
    peaks = {mode: one.ledger["cuda:0"].held for mode, one in made.items()}
    assert peaks[None] == sum(sizes.values())
    assert peaks["model"] == max(sizes.values())
    assert peaks["model"] > peaks["group"] > peaks["sequential"]
    assert made["model"].ledger["cpu"].weights == sum(sizes.values())
    for one in made.values():
        assert Plan.from_dict(one.to_dict()) == one
        assert one.device.to_torch_str() == "cuda:0"


def loaded(folder, made):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, tokenizer=None, tokenizer_2=None, **made.to_diffusers_kwargs())


@pytest.fixture
def on_two_cards():
    torch = pytest.importorskip("torch")
    try:
        require_built("tensors")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))
    with warnings.catch_warnings(), simulate_host("2x24gb", depth="tensors"):
        warnings.simplefilter("ignore")
        yield torch


def test_components_are_where_they_are_planned(folder, sizes, on_two_cards):
    made = plan(Policy.parse(EXACT + 'split = "balanced"'), folder, "2x24gb")
    assert len(made.placements.devices) == 2
    pipeline = place_pipeline(made, loaded(folder, made))
    for name, unit in made.placements.items():
        module = getattr(pipeline, name)
        assert {str(one.device) for one in [*module.parameters(), *module.buffers()]} == {str(unit.runs_on)}
        assert held(module) == unit.bytes == sizes[name]
    gc.collect()
    for device, budget in made.ledger.items():
        assert on_two_cards.cuda.memory_allocated(device) == budget.weights
    assert pipelines.run(pipeline).isfinite().all()


def peak_of(torch, pipeline):
    """What a run answers, the bytes on the first card before it, and at most."""
    gc.collect()
    base = torch.cuda.memory_allocated(0)
    torch.cuda.reset_peak_memory_stats(0)
    answer = pipelines.run(pipeline)
    return answer.cpu(), base, torch.cuda.max_memory_allocated(0)


@pytest.mark.parametrize("mode", ["model", "group", "sequential"])
def test_a_mode_holds_what_is_planned(folder, by_mode, mode, on_two_cards):
    made = by_mode
    whole, streamed = made[None], made[mode]
    wanted, base, peak = peak_of(on_two_cards, place_pipeline(whole, loaded(folder, whole)))
    assert base == whole.ledger["cuda:0"].weights
    computed = peak - base  # what it computes comes on top: the policy here reserves nothing for it
    answer, base, peak = peak_of(on_two_cards, place_pipeline(streamed, loaded(folder, streamed)))
    ledger = streamed.ledger["cuda:0"]
    assert base == ledger.weights
    assert ledger.held <= peak <= ledger.held + computed
    assert on_two_cards.equal(answer, wanted)


def test_the_form_is_data_and_can_be_printed(by_mode):
    made = by_mode
    assert diffusers_settings(made[None])["devices"] == dict.fromkeys(PARTS, "cuda:0") | {}
    calls = {mode: diffusers_settings(one).get("call") for mode, one in made.items()}
    assert calls == {
        None: None,
        "model": "enable_model_cpu_offload",
        "group": "enable_group_offload",
        "sequential": "enable_sequential_cpu_offload",
    }
    assert diffusers_settings(made["model"])["arguments"] == {"device": "cuda:0"}
    for one in made.values():
        assert json.loads(json.dumps(diffusers_settings(one)))


def test_the_command_prints_the_call(folder, tmp_path):
    (tmp_path / "p.toml").write_text(EXACT + 'overflow = "cpu"\n')
    (tmp_path / "h.toml").write_text(cards(310_000).to_toml())
    arguments = ["plan", str(tmp_path / "p.toml"), "--model", str(folder), "--host", str(tmp_path / "h.toml")]
    shown = invoke(*arguments, "--to", "diffusers", "--format", "json")
    assert json.loads(shown.stdout)["call"] == "enable_model_cpu_offload"
    assert "one component at a time" in invoke("why", *arguments[1:2], "vae", *arguments[2:]).stdout


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ('overflow = "disk"', "DP301"),
        ('offload.text_encoder = "cpu"', "DP409"),
        ('overflow = "cpu"\n[[rule]]\nmatch = "vae"\nprefer = "cuda:0"', "DP301"),
        ('[[rule]]\nmatch = "transformer.transformer_blocks.0"\nprefer = "cuda:1"', "DP404"),
        ('loading.quantization = "nf4"', "DP416"),
    ],
)
def test_what_it_cannot_do_is_refused(folder, rule, code):
    with pytest.raises(Unsatisfiable) as refused:
        plan(Policy.parse(EXACT + rule), folder, cards(320_000, 200_000))
    assert refused.value.code == code


def test_a_component_is_named_by_its_folder(folder, tmp_path, monkeypatch):
    vae = ModelTree.load(f"{folder}:vae")
    clip = ModelTree.load(f"{folder}:text_encoder")
    assert (vae.format, clip.format) == ("diffusers", "safetensors")
    assert clip.modules[0].class_name == "CLIPTextModel"
    snapshot = tmp_path / "models--org--flux" / "snapshots"
    snapshot.mkdir(parents=True)
    (snapshot / "abc").symlink_to(folder)
    (snapshot / "def").symlink_to(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert ModelTree.load("org/flux:vae@abc") == vae
    assert ModelTree.load("org/flux@abc").format == "diffusers"
    for name, words in {
        f"{folder}:nothing": "has no folder `nothing`",
        f"{folder}:../x": "has no folder",
        f"{folder}:vae@main": "no model of the hub",
        "org/flux:vae@other": "not in the local Hugging Face cache at `other`",
        "org/flux@../../x": "not in the local",
    }.items():
        with pytest.raises(ModelError, match=words):
            ModelTree.load(name)


def test_a_pipeline_of_another_kind_is_refused(folder):
    made = plan(Policy.parse(EXACT), folder, "2x24gb")

    class Other:
        components = {}  # noqa: RUF012

    with pytest.raises(DevPolicyError, match="another pipeline"):
        place_pipeline(made, Other())
    with pytest.raises(Unsatisfiable, match='target = "diffusers"'):
        diffusers_settings(plan(Policy.parse(EXACT), "gpt2", "2x24gb"))


def test_a_policys_dtype_is_that_of_all(folder):
    made = plan(Policy.parse(EXACT + 'workload.dtype = "float16"'), folder, "2x24gb")
    assert diffusers_settings(made)["dtype"] == {"default": "float16"}


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"a": ["diffusers", "X"]}'])
def test_a_damaged_index_is_an_error(tmp_path, text):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ModelError):
        ModelTree.load(tmp_path)


def test_the_table_is_that_of_the_library():
    """`python -m tools.pipelines` writes it."""
    from tools.pipelines import FIXTURE, classes, text

    if f'diffusers = "{__import__("diffusers").__version__}"' not in FIXTURE.read_text():
        pytest.skip("another diffusers wrote the table")
    assert FIXTURE.read_text() == text()
    assert {name: ("->".join(one.sequence), one.stays) for name, one in known_pipelines().items()} == classes()
