"""ONNX files and ONNX Runtime: bytes of the file and beside it, ordered providers, and sessions that fell back."""

from __future__ import annotations

import json
import warnings

import pytest
from tests.cli.harness import invoke

from devpolicy import Accelerator, Host, ModelTree, Policy, plan
from devpolicy.errors import ModelError, Unsatisfiable
from devpolicy.targets import check_providers, onnx_model_kwargs, onnx_providers
from devpolicy.testing import simulate_host

onnx = pytest.importorskip("onnx")
CUDA = Policy.parse('prefer = "cuda"')
ANY = Policy.parse('prefer = ["cuda", "mps", "xpu", "cpu"]')
HIDDEN = 64
WEIGHTS = 2 * HIDDEN * HIDDEN * 4 + HIDDEN * 2


def write(path, *, external=False, branch=False, dtype="float32"):
    """Two matrices and a vector in another dtype; with `branch` the second one is in the arms of an `If`."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def values(*shape):
        return (np.arange(np.prod(shape)).reshape(shape) % 7).astype(dtype)

    def io(name, shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    first, second = (numpy_helper.from_array(values(HIDDEN, HIDDEN), name) for name in "WV")
    half = numpy_helper.from_array(np.ones(HIDDEN, np.float16), "h")
    inner = [helper.make_node("MatMul", ["m", "V"], ["n"])]
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"])]
    if branch:
        then = helper.make_graph(inner, "then", [], [io("n", [1, HIDDEN])], [second])
        other = helper.make_graph([helper.make_node("Identity", ["m"], ["o"])], "else", [], [io("o", [1, HIDDEN])])
        yes = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
        nodes += [yes, helper.make_node("If", ["c"], ["n"], then_branch=then, else_branch=other)]
    else:
        nodes += inner
    nodes += [helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT), helper.make_node("Add", ["n", "f"], ["y"])]
    initializers = [first, half] if branch else [first, second, half]
    graph = helper.make_graph(nodes, "g", [io("x", [1, HIDDEN])], [io("y", [1, HIDDEN])], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"save_as_external_data": True, "size_threshold": 1024, "location": f"{path.name}_data"} if external else {}
    onnx.save(model, str(path), **kept)
    return path


def weights(tree):
    return sum(tensor.bytes_as(None) for tensor in tree.modules[0].tensors if not tensor.buffer)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("branch", [False, True])
def test_bytes_are_those_of_the_files(tmp_path, external, branch):
    file = write(tmp_path / "m" / "model.onnx", external=external, branch=branch)
    tree = ModelTree.load(file)
    assert weights(tree) == WEIGHTS + branch  # and the condition, a bool
    assert tree.parameters == 2 * HIDDEN * HIDDEN + HIDDEN + branch
    assert tree.bytes_as() == sum(one.stat().st_size for one in file.parent.iterdir())
    assert (tree.name, tree.format) == ("m", "onnx")
    assert ModelTree.parse(tree.to_toml()) == tree


def test_a_folder_is_its_model(tmp_path):
    write(tmp_path / "b" / "onnx" / "model.onnx")
    write(tmp_path / "b" / "onnx" / "model_qint8.onnx")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "bert"}')
    assert ModelTree.load(tmp_path / "b").name == "b"
    write(tmp_path / "c" / "one.onnx")
    write(tmp_path / "c" / "two.onnx")
    with pytest.raises(ModelError, match="holds 2 ONNX models"):
        ModelTree.load(tmp_path / "c")


def test_what_is_damaged_or_missing_is_told(tmp_path):
    file = write(tmp_path / "model.onnx", external=True)
    data = tmp_path / "model.onnx_data"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    with pytest.raises(ModelError, match="weights in it end at"):
        ModelTree.load(file)
    data.unlink()
    with pytest.raises(ModelError, match="is missing"):
        ModelTree.load(file)
    text = file.read_bytes()
    file.write_bytes(text.replace(b"model.onnx_data", b"../../etc/shado"))
    with pytest.raises(ModelError, match="no file of its folder"):
        ModelTree.load(file)
    for cut in (b"", text[:1], text[: len(text) // 2], b"\x00" * 40, b"\xff" * 40, b"not a model at all"):
        file.write_bytes(cut)
        with pytest.raises(ModelError) as damaged:
            ModelTree.load(file)
        assert damaged.value.code == "DP104"


def test_the_runtime_runs_with_our_providers(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    import numpy as np

    file = write(tmp_path / "model.onnx")
    host = Host(memory="8 GiB")
    made = plan(ANY, file, host)
    assert made.target == "onnx"
    session = ort.InferenceSession(file, providers=onnx_providers(made, host))
    check_providers(session, made)
    (answer,) = session.run(None, {"x": np.ones((1, HIDDEN), np.float32)})
    assert answer.shape == (1, HIDDEN)


def test_a_missing_provider_is_an_error(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    file = write(tmp_path / "model.onnx")
    host = Host.load("2x24gb")
    made = plan(CUDA, file, host)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the only word of it
        session = ort.InferenceSession(file, providers=onnx_providers(made, host))
    assert session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(Unsatisfiable, match="runs on `CPUExecutionProvider`, and `cuda:0` was planned") as fell_back:
        check_providers(session, made)
    assert fell_back.value.code == "DP424"


HOSTS = {
    "2x24gb": ("CUDAExecutionProvider", {"device_id": 0}),
    "macbook-m3-36gb": ("CoreMLExecutionProvider", {}),
    "arc-a770": ("OpenVINOExecutionProvider", {"device_type": "GPU.0"}),
    "cpu-only": ("CPUExecutionProvider", {}),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_simulated_host_offers_what_was_planned(tmp_path, name):
    ort = pytest.importorskip("onnxruntime")
    file = write(tmp_path / "model.onnx")
    host = Host.load(name)
    made = plan(ANY, file, host)
    providers = onnx_providers(made, host)
    provider, options = HOSTS[name]
    assert providers[0][0] == provider
    assert options.items() <= providers[0][1].items()
    assert providers[-1][0] == "CPUExecutionProvider"
    real = ort.get_available_providers()
    with simulate_host(host):
        assert provider in ort.get_available_providers()
        session = ort.InferenceSession(file, providers=providers)
        check_providers(session, made)
        assert session.get_providers()[0] == provider
    assert ort.get_available_providers() == real


def test_another_card_is_found(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    file = write(tmp_path / "model.onnx")
    host = Host.load("2x24gb")
    made = plan(Policy.parse('prefer = "cuda:1"'), file, host)
    with simulate_host(host):
        check_providers(ort.InferenceSession(file, providers=onnx_providers(made, host)), made)
        wrong = ort.InferenceSession(file, providers=[("CUDAExecutionProvider", {"device_id": 0})])
        with pytest.raises(Unsatisfiable, match="runs on device 0, and `cuda:1` was planned"):
            check_providers(wrong, made)
        # A number that is not there is an error inside, and ONNX Runtime falls back.
        lost = ort.InferenceSession(file, providers=[("CUDAExecutionProvider", {"device_id": 7})])
        with pytest.raises(Unsatisfiable, match="CPUExecutionProvider"):
            check_providers(lost, made)


def test_the_limit_is_what_is_planned(tmp_path):
    file, host = write(tmp_path / "model.onnx"), Host.load("2x24gb")
    known = plan(Policy.parse('prefer = "cuda"\nmemory.cuda.reserve.activations = "1 GiB"'), file, host)
    open_ = plan(CUDA, file, host)
    size = ModelTree.load(file).bytes_as()
    assert onnx_providers(known, host)[0][1]["gpu_mem_limit"] == size + (1 << 30)
    ledger = open_.ledger["cuda:0"]
    assert onnx_providers(open_, host)[0][1]["gpu_mem_limit"] == ledger.cap - ledger.headroom
    assert [warning.code for warning in open_.warnings] == ["DP414"]


def test_amd_has_another_provider(tmp_path):
    host = Host([Accelerator("cuda", memory="64 GiB", name="AMD Instinct MI250X")], memory="64 GiB")
    made = plan(CUDA, write(tmp_path / "model.onnx"), host)
    assert onnx_providers(made, host)[0] == ("MIGraphXExecutionProvider", {"device_id": 0})


def test_sentence_transformers_is_told_the_provider(tmp_path):
    host = Host.load("2x24gb")
    made = plan(Policy.parse('prefer = "cuda:1"'), write(tmp_path / "model.onnx"), host)
    told = onnx_model_kwargs(made, host)
    assert told["backend"] == "onnx"
    assert told["model_kwargs"]["provider"] == "CUDAExecutionProvider"
    assert told["model_kwargs"]["provider_options"]["device_id"] == 1


@pytest.mark.parametrize(
    "text",
    ['prefer = "cuda"\nworkload.dtype = "float16"', 'prefer = "cuda"\nloading.quantization = "int8"', 'prefer = "npu"'],
)
def test_what_a_session_cannot_do_is_refused(tmp_path, text):
    with pytest.raises(Unsatisfiable):
        plan(Policy.parse(text), write(tmp_path / "model.onnx"), "2x24gb")


def test_a_format_of_another_engine_is_refused(tmp_path):
    with pytest.raises(Unsatisfiable, match="does not read ONNX files") as refused:
        plan(CUDA, write(tmp_path / "model.onnx"), "2x24gb", target="llama.cpp")
    assert "`onnx`" in (refused.value.diagnostics[0].help or "")


def test_the_command_prints_both_forms(tmp_path):
    write(tmp_path / "model.onnx")
    (tmp_path / "p.toml").write_text('prefer = "cuda"\nmemory.cuda.reserve.activations = "1 GiB"\n')
    arguments = ["plan", str(tmp_path / "p.toml"), "--model", str(tmp_path), "--host", "2x24gb", "--to"]
    shown = invoke(*arguments, "onnx")
    assert shown.status == 0, shown.stderr
    assert eval(shown.stdout)[0][1]["device_id"] == 0
    told = invoke(*arguments, "sentence-transformers-onnx", "--format", "json")
    assert json.loads(told.stdout)["model_kwargs"]["provider"] == "CUDAExecutionProvider"
