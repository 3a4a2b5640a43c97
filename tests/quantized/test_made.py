"""Schemes that are made while a model is loaded: what is planned is what the library makes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.quantized.rules import need_these_rules

need_these_rules()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import Accelerator, Host, ModelTree, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.loading.quantizations import QUANTIZATIONS  # noqa: E402
from devpolicy._core.loading.support import TRANSFORMERS  # noqa: E402
from devpolicy._core.model.tree import Module, Tensor  # noqa: E402
from devpolicy._core.placement.saved import PlanError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402
from tests.quantized.checkpoints import full  # noqa: E402
from tests.quantized.test_loaded import FULL, HOSTS, held, quiet, summed  # noqa: E402, F401

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

MADE = {
    "int8": 3_144_448, "nf4": 2_214_976, "fp4": 2_214_976, "nf4-double": 2_140_300, "fp4-double": 2_140_300,
    "torchao-int8": 3_151_360, "torchao-float8": 3_144_448,
    "quanto-int8": 3_130_792, "quanto-float8": 3_130_792, "quanto-int4": 2_149_288, "quanto-int2": 1_633_192,
}  # fmt: skip
OF = {"torchao": "torchao", "quanto": "optimum.quanto"}


def needs(word: str) -> None:
    library = OF.get(word.partition("-")[0], "bitsandbytes")
    try:
        found = find_spec(library)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{library} makes it: `tox run -e quantized`")


def policy(word: str, kind: str = "cuda", split: str = "never", more: str = "") -> Policy:
    return Policy.parse(
        f'prefer = "{kind}"\nsplit = "{split}"\nloading.quantization = "{word}"\n{more}\n[workload]\ncontext = 8\n'
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("made") / "full")


@pytest.mark.parametrize("word", MADE)
@pytest.mark.parametrize(("host", "split"), [("cpu", "never"), ("8.9", "never"), ("8.9", "balanced")])
def test_what_is_made_takes_what_is_planned(word: str, host: str, split: str, model: Path) -> None:
    needs(word)
    if (word, host) == ("quanto-int4", "8.9"):
        pytest.skip("packed by a kernel of CUDA")
    made = plan(policy(word, "cpu" if host == "cpu" else "cuda", split), model, HOSTS[host])
    planned = {device: budget.weights for device, budget in made.ledger.items()}
    if host != "cpu" or not word.endswith("double"):  # whose scales a CPU's first forward makes larger
        assert sum(planned.values()) == MADE[word]
    with simulate_host(HOSTS[host], depth="tensors"), torch.no_grad():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(model, **made.to_hf_kwargs())
        tensors = held(loaded, list(planned))
        assert made.verify(loaded) == []
        for device in planned:
            if device.startswith("cuda"):
                assert simulated_device(device).peak <= made.ledger[device].load + 1024
                # Two scales of each of quanto's modules stay on the CPU, bitsandbytes keeps one table for all models.
                assert abs(simulated_device(device).allocated - planned[device]) <= 1024
        if host == "cpu" and word.endswith("double"):
            loaded(torch.ones(1, 8, dtype=torch.long))
            tensors = {key: max(size, tensors[key]) for key, size in held(loaded, list(planned)).items()}
    if word.startswith("quanto") and host != "cpu":
        tensors = {
            (next(iter(planned)) if device == "cpu" else device, name): size for (device, name), size in tensors.items()
        }
    assert summed(tensors) == planned


def test_every_word_has_a_row_or_is_refused(model: Path) -> None:
    assert set(MADE) | {"none", "fp8", "mxfp4"} == set(QUANTIZATIONS)
    assert all(TRANSFORMERS[word].making for word in QUANTIZATIONS[1:])


@pytest.mark.parametrize("word", ["fp8", "mxfp4"])
def test_what_a_host_cannot_make_is_refused(word: str, model: Path) -> None:
    with pytest.raises(Unsatisfiable) as refused:
        plan(policy(word), model, HOSTS["8.0"])
    assert refused.value.code == "DP417"
    assert "cannot be made here" in str(refused.value) or "converts no module" in str(refused.value)


def test_fp8_is_made_where_the_device_can_run_it(model: Path) -> None:
    made = plan(policy("fp8"), model, HOSTS["8.9"])
    assert made.ledger["cuda:0"].weights == 3_117_304
    with simulate_host(HOSTS["8.9"], depth="tensors"):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(model, **made.to_hf_kwargs())
        assert made.verify(loaded) == []


def test_none_leaves_the_model_as_it_is(model: Path) -> None:
    made = plan(policy("none"), model, HOSTS["8.9"])
    assert made.ledger["cuda:0"].weights == FULL
    assert "quantization_config" not in made.to_hf_kwargs()


@pytest.mark.parametrize("place", ["cpu", "disk"])
@pytest.mark.parametrize("split", ["never", "balanced"])
@pytest.mark.parametrize("word", ["int8", "nf4", "nf4-double", "fp4"])
def test_what_is_kept_elsewhere_stays_unquantised(
    word: str, split: str, place: str, model: Path, tmp_path: Path
) -> None:
    needs(word)
    kept = f'offload = {{ "model.layers.1" = "{place}" }}\nmemory.disk.path = "offload"'
    made = plan(policy(word, "cuda", split, kept), model, HOSTS["8.9"])
    planned = {device: budget.weights for device, budget in made.ledger.items()}
    layer = made.placements["model.layers.1"]
    assert (layer.device.type.value, layer.bytes) == (place, planned[place])
    assert layer.bytes == plan(policy("none"), model, HOSTS["8.9"]).placements["model.layers.1"].bytes
    tokens = torch.ones(1, 8, dtype=torch.long)
    answers = []
    with simulate_host(HOSTS["8.9"], depth="tensors"), torch.no_grad():
        given = made.to_hf_kwargs()
        loaded = transformers.AutoModelForCausalLM.from_pretrained(model, **given, offload_folder=str(tmp_path))
        assert made.verify(loaded) == []
        answers.append(loaded(tokens.to("cuda:0")).logits.float().cpu())
        assert summed(held(loaded, list(planned))) == planned
        for device in planned:
            if device.startswith("cuda"):
                assert abs(simulated_device(device).allocated - planned[device]) <= 1024  # one table for all models
                assert simulated_device(device).peak <= made.ledger[device].used + 1024
        del loaded
        # What the library makes where it is told the same modules, and nothing is kept elsewhere.
        skipped = type(given["quantization_config"]).from_dict(given["quantization_config"].to_dict())
        skipped.llm_int8_skip_modules = ["lm_head", "model.layers.1"]
        beside = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, device_map={"": 0}, quantization_config=skipped
        )
        answers.append(beside(tokens.to("cuda:0")).logits.float().cpu())
    assert torch.equal(*answers)


def test_rooms_elsewhere_are_for_unquantised_weights(model: Path) -> None:
    whole = plan(policy("none"), model, HOSTS["8.9"]).placements["model.layers.1"].bytes
    kept = 'offload = {{ "model.layers.1" = "cpu" }}\nmemory.cpu.cap = {}'
    with pytest.raises(Unsatisfiable, match="are left there"):
        plan(policy("nf4", more=kept.format(whole - 1)), model, HOSTS["8.9"])
    assert plan(policy("nf4", more=kept.format(2 * whole)), model, HOSTS["8.9"]).ledger["cpu"].weights == whole


def test_what_does_not_fit_quantised_goes_elsewhere_as_it_is(model: Path) -> None:
    small = 'overflow = "cpu"\nmemory.cuda = { cap = "2.5 MiB", headroom = 0, reserve.activations = 0 }'
    one = Host(HOSTS["8.9"].accelerators[:1], memory="16 GiB")
    made = plan(policy("nf4", more=small), model, one)
    away = [path for path, unit in made.placements.items() if unit.device.type.value == "cpu"]
    plain = plan(policy("none"), model, HOSTS["8.9"]).placements
    assert away
    assert made.ledger["cpu"].weights == sum(plain[path].bytes for path in away)


def test_where_the_cpu_runs_the_model_nothing_is_elsewhere(model: Path) -> None:
    with pytest.raises(Unsatisfiable, match="DP417"):
        plan(policy("nf4", "cpu", more='offload = { "model.layers.1" = "disk" }'), model, HOSTS["cpu"])


def test_a_name_that_ends_another_would_leave_that_too() -> None:
    weight = Tensor("weight", (64, 64), "bfloat16")
    linear = {"one", "two.one", "two.more", "head"}
    paths = ("", "one", "two", "two.one", "two.more", "head")
    modules = [Module(path, "Linear" if path in linear else "Net", (weight,) * (path in linear)) for path in paths]
    tree, kept = ModelTree("net", tuple(modules)), 'offload = {{ "{}" = "cpu" }}'
    made = plan(policy("int8", more=kept.format("two.more")), tree, HOSTS["8.9"])
    assert made.ledger["cpu"].weights == 2 * weight.elements
    with pytest.raises(Unsatisfiable, match=r"would not be made of `two\.one`"):
        plan(policy("int8", more=kept.format("one")), tree, HOSTS["8.9"])


@pytest.mark.parametrize("word", ["torchao-int8", "quanto-int8"])
def test_what_is_made_stays_off_the_cpu_beside_an_accelerator(word: str, model: Path) -> None:
    with pytest.raises(Unsatisfiable) as refused:
        plan(policy(word, more='offload = { "model.layers.2" = "cpu" }'), model, HOSTS["8.9"])
    assert refused.value.code == "DP417"
    assert "`loading.quantization" in str(refused.value.diagnostics[0].help)


def test_a_plan_holds_the_librarys_object_and_its_json_a_table(model: Path) -> None:
    needs("nf4")
    made = plan(policy("nf4"), model, HOSTS["8.9"])
    given = made.to_hf_kwargs()["quantization_config"]
    assert type(given) is transformers.BitsAndBytesConfig
    assert (given.bnb_4bit_quant_type, given.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    load = made.to_dict()["load"]
    assert load["quantization_config"]["quant_method"] == "bitsandbytes"
    assert type(made).from_dict(made.to_dict()) == made
    assert made.digest != plan(policy("fp4"), model, HOSTS["8.9"]).digest


def test_a_host_with_an_old_library_is_refused(model: Path) -> None:
    old = Host(HOSTS["8.9"].accelerators, memory="16 GiB", versions={"bitsandbytes": "0.41.0"})
    with pytest.raises(Unsatisfiable, match=r"needs `bitsandbytes>=0.46.1`, and this host has 0.41.0"):
        plan(policy("nf4"), model, old)
    assert plan(policy("nf4"), model, HOSTS["8.9"]).loading.assumed == ("bitsandbytes>=0.46.1",)
    with pytest.raises(Unsatisfiable, match="bitsandbytes"):
        plan(policy("nf4", more='require.bitsandbytes = ">=0.46"'), model, HOSTS["8.9"])


def test_what_a_scheme_does_not_convert_stays(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2, "n_head": 2}
    tree = ModelTree.from_config(config | {"vocab_size": 100})
    made = plan(policy("int8"), tree, HOSTS["8.9"])
    plain = plan(policy("none"), tree, HOSTS["8.9"])
    smaller = [path for path, unit in made.placements.items() if unit.bytes < plain.placements[path].bytes]
    assert smaller == ["transformer.h.0", "transformer.h.1"]


def test_a_table_that_no_library_here_reads_is_an_error(model: Path) -> None:
    from dataclasses import replace

    made = plan(policy("nf4"), model, HOSTS["8.9"])
    broken = replace(made, loading=replace(made.loading, quantization={"quant_method": "unheard-of"}))
    with pytest.raises(PlanError, match="unheard-of"):
        broken.to_hf_kwargs()


def test_the_device_that_runs_is_the_one_whose_scheme_is_planned(model: Path) -> None:
    unlike = Host([Accelerator("cuda", memory="4 GiB", capability=pair) for pair in ((8, 9), (8, 0))], memory="16 GiB")
    with pytest.raises(Unsatisfiable, match=r"the least of this host is 8\.0"):
        plan(policy("fp8"), model, unlike)
