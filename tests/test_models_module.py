"""Reading real modules: what torch allows and a tree must say."""

import time
import tracemalloc

import pytest

from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.drop = nn.Dropout()


def test_a_shared_module_stands_at_both_paths():
    shared = nn.Linear(2, 2)
    tree = ModelTree.from_module(nn.ModuleDict({"a": shared, "b": shared}))
    assert [module.path for module in tree.modules] == ["", "a", "b"]
    assert tree.ties == (("a.weight", "b.weight"), ("a.bias", "b.bias"))
    assert tree.parameters == 6


def test_tensors_of_containers_and_buffers_are_read():
    root = nn.Module()
    root.scale = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    root.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    root.register_buffer("table", torch.zeros(2), persistent=False)
    root.register_parameter("gap", None)
    (module,) = ModelTree.from_module(root).modules
    assert [(t.name, t.shape, t.dtype, t.buffer, t.persistent) for t in module.tensors] == [
        ("scale", (3,), "bfloat16", False, True),
        ("seen", (), "int64", True, True),
        ("table", (2,), "float32", True, False),
    ]


def test_no_split_classes_of_nested_models_are_collected():
    inner = Block()
    inner._no_split_modules = ["Linear"]
    outer = nn.Sequential(inner)
    outer._no_split_modules = {"Block"}
    assert ModelTree.from_module(outer).no_split == {"Block", "Linear"}
    assert ModelTree.from_module(outer, no_split=["LayerNorm"]).no_split == {"LayerNorm"}
    assert ModelTree.from_module(outer, no_split=[]).no_split == set()


def test_a_misspelt_block_class_is_refused_with_the_likely_one():
    with pytest.raises(ModelError) as refused:
        ModelTree.from_module(nn.Sequential(Block()), no_split=["Blok"])
    assert refused.value.diagnostics[0].help == "did you mean `Block`?"


def test_what_is_no_module_is_refused():
    with pytest.raises(ModelError, match="not from dict objects"):
        ModelTree.from_module({"a": 1})


def test_a_module_that_contains_itself_is_refused():
    root = nn.Sequential(nn.Module())
    root[0].add_module("up", root)
    with pytest.raises(ModelError, match="contains itself"):
        ModelTree.from_module(root)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_forms_of_a_module_are_read_as_it_is():
    """They keep their tensors and children where each of them likes."""
    module, example = nn.Sequential(Block().lin, nn.BatchNorm1d(2)).eval(), torch.zeros(1, 2)
    forms = [torch.jit.script(module), torch.jit.trace(module, example), torch.fx.symbolic_trace(module)]
    told = [(one.path, one.tensors, one.in_place) for one in ModelTree.from_module(module).modules]
    for form in forms:
        assert [(one.path, one.tensors, one.in_place) for one in ModelTree.from_module(form).modules] == told


def test_a_module_that_was_not_initialised_is_refused():
    class Part(nn.Module):
        def __init__(self):
            pass

    root = nn.Sequential(Block())
    root._modules["part"] = Part()
    with pytest.raises(ModelError, match=r"module `part` is not initialised: .* `super\(\).__init__\(\)` first"):
        ModelTree.from_module(root)
    with pytest.raises(ModelError, match="the model is not initialised"):
        ModelTree.from_module(Part())


def test_a_lazy_parameter_is_refused_with_the_way_out():
    with pytest.raises(ModelError, match=r"tensor `0\.weight` has no shape yet: run one batch"):
        ModelTree.from_module(nn.Sequential(nn.LazyLinear(2)))


def test_sharing_that_doubles_at_each_level_is_refused():
    module = nn.Linear(1, 1)
    for _ in range(30):
        module = nn.ModuleList([module, module])
    with pytest.raises(ModelError, match="more than 250000 modules"):
        ModelTree.from_module(module)


def test_a_tensor_made_of_others_counts_the_bytes_of_its_parts():
    class Halves(torch.Tensor):
        @staticmethod
        def __new__(cls, left):
            return torch.Tensor._make_wrapper_subclass(cls, (8, 8), dtype=torch.float32)

        def __init__(self, left):
            self.left = left

        def __tensor_flatten__(self):
            return ["left"], None

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return Halves(args[0].left)

    root = nn.Module()
    root.weight = nn.Parameter(Halves(torch.zeros(7, dtype=torch.uint8)), requires_grad=False)
    assert ModelTree.from_module(root).bytes_as() == 7


def test_declared_ties_are_read_where_both_ends_exist():
    with torch.device("meta"):
        root = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2, bias=False)})
    root.all_tied_weights_keys = {"b.weight": "a.weight", "b.bias": "a.bias", "c.weight": "a.weight"}
    assert ModelTree.from_module(root).ties == (("a.weight", "b.weight"),)
    assert ModelTree.from_module(nn.Sequential(root)).ties == (("0.a.weight", "0.b.weight"),)
    root["b"] = nn.Linear(2, 2, bias=False)
    assert ModelTree.from_module(root).ties == ()


def test_a_declared_tie_to_no_parameter_is_none():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 2, device="meta")
            self.all_tied_weights_keys = {"head.weight": "embed.weight"}

        @property
        def head(self):
            return nn.Linear(2, 4, bias=False, device="meta")

    assert ModelTree.from_module(Model()).ties == ()


def test_reading_is_linear_in_time_and_small_in_memory():
    def best(count):
        model = nn.ModuleList(Block() for _ in range(count))
        times = []
        for _ in range(3):
            start = time.process_time()
            tree = ModelTree.from_module(model)
            times.append(time.process_time() - start)
        return min(times), tree, model

    small, _, _ = best(500)
    large, tree, model = best(8000)
    assert len(tree.modules) == 32_001
    assert large < 16 * small * 4  # sixteen times the modules; a quadratic reader would take 256 times as long
    tracemalloc.start()
    kept = ModelTree.from_module(model)
    assert tracemalloc.get_traced_memory()[0] / len(kept.modules) < 600
    tracemalloc.stop()
