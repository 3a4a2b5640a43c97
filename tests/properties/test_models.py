"""Properties of model trees, their TOML form, and the reading of real modules."""

from importlib.util import find_spec

import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st

from devpolicy._core.model.ranges import expand_path, expand_tree, split
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree, Module
from devpolicy._core.strategies.models import HOSTILE_NAMES
from devpolicy.errors import ModelError
from devpolicy.testing.strategies import model_trees, torch_modules

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="reads real modules of torch")
TREES = st.one_of(model_trees(), model_trees(hostile=True))


@given(TREES)
def test_what_is_written_reads_back_to_an_equal_model(tree):
    assert ModelTree.parse(tree.to_toml()) == tree


@given(TREES)
def test_writing_is_deterministic_after_reading(tree):
    assert ModelTree.parse(tree.to_toml()).to_toml() == tree.to_toml()


@given(st.integers(2, 300))
def test_equal_blocks_are_written_once_however_many_there_are(count):
    blocks = (Module("", "M"), *(Module(str(number), "B") for number in range(count)))
    tree = ModelTree("x", blocks)
    assert tree.to_toml().count("path = ") == 2


@given(TREES)
def test_a_subtree_is_the_range_of_positions_of_its_descendants(tree):
    paths = [module.path for module in tree.modules]
    for position, path in enumerate(paths):
        inside = {other for other, name in enumerate(paths) if not path or (name + ".").startswith(path + ".")}
        assert inside == set(range(position, tree.subtree_end[position]))


@given(TREES)
def test_children_and_parents_agree(tree):
    for position in range(len(tree.modules)):
        assert all(tree.parents[child] == position for child in tree.children(position))
        parent = tree.parents[position]
        assert parent == -1 or position in set(tree.children(parent))


@given(TREES, st.sampled_from([None, "float32", "bfloat16", "float64"]))
def test_bytes_of_a_model_count_every_tensor_once(tree, dtype):
    sizes = dict(
        zip(
            tree.tensor_names(),
            (tensor.bytes_as(dtype) for module in tree.modules for tensor in module.tensors),
            strict=True,
        )
    )
    for group in tree.ties:
        for name in group[1:]:
            del sizes[name]
    assert tree.bytes_as(dtype) == sum(sizes.values())


@given(TREES)
def test_only_floating_parameters_follow_a_dtype(tree):
    for tensor in (tensor for module in tree.modules for tensor in module.tensors):
        follows = tensor.dtype in ("float32", "bfloat16") and tensor.persistent
        bits = 64 if follows else DTYPE_BITS[tensor.dtype]
        assert tensor.bytes_as("float64") == tensor.elements * bits // 8


@given(st.lists(st.sampled_from([*HOSTILE_NAMES, "{0..2}", "{7..7}", "{10..12}"]), min_size=1, max_size=4))
def test_a_pattern_stands_for_the_product_of_its_ranges(parts):
    pattern = ".".join(parts)
    widths = [segment.width for segment in split(pattern)]
    paths = list(expand_path(pattern))
    assert len(set(paths)) == len(paths)
    total = 1
    for width in widths:
        total *= width
    assert len(paths) == total
    assert [str(segment) for segment in split(pattern)] == parts


@given(TREES)
def test_a_tree_without_ranges_expands_to_itself(tree):
    paths = [module.path for module in tree.modules]
    assume(not any("{" in path for path in paths))
    assert expand_tree(paths) == list(zip(paths, range(len(paths)), strict=True))


@given(
    st.text(max_size=200),
    st.sampled_from([m.to_toml() for m in (ModelTree.parse('name="x"\nmodule=[{path="",class="M"}]'),)]),
)
def test_any_text_is_read_or_refused_with_a_finding(text, good):
    for candidate in (text, good + text, text + good):
        try:
            ModelTree.parse(candidate)
        except ModelError as refused:
            assert refused.diagnostics


@given(TREES, st.data())
def test_a_mutated_model_file_is_read_or_refused_with_a_place(tree, data):
    text = tree.to_toml()
    at = data.draw(st.integers(0, len(text)))
    put = data.draw(st.sampled_from(["", '"', "}", "[", "0", "..", "{0..9}", "{5..1}", "-1", "999999999999", ".", "é"]))
    cut = data.draw(st.integers(0, 6))
    try:
        ModelTree.parse(text[:at] + put + text[at + cut :])
    except ModelError as refused:
        assert all(finding.place is not None for finding in refused.diagnostics)


@needs_torch
@given(torch_modules())
def test_a_real_module_reads_as_torch_sees_it(module):
    tree = ModelTree.from_module(module)
    assert [(entry.path, entry.class_name) for entry in tree.modules] == [
        (path, type(part).__name__) for path, part in module.named_modules(remove_duplicate=False)
    ]
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    seen = dict(zip(tree.tensor_names(), (tensor for entry in tree.modules for tensor in entry.tensors), strict=True))
    assert seen.keys() == parameters.keys() | buffers.keys()
    for name, tensor in seen.items():
        real = (buffers if tensor.buffer else parameters)[name]
        assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(real.shape), str(real.dtype))
    assert {name for name, tensor in seen.items() if tensor.persistent} == set(module.state_dict())


@needs_torch
@given(torch_modules())
def test_tensors_are_tied_exactly_where_they_are_one_object(module):
    tree = ModelTree.from_module(module)
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    groups: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), set()).add(name)
    assert {frozenset(group) for group in tree.ties} == {frozenset(g) for g in groups.values() if len(g) > 1}
    assert tree.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def warm_meta():
    """Torch imports its meta kernels with the first use, which takes seconds and is no part of an example."""
    pytest.importorskip("torch").nn.Linear(1, 1, device="meta")


@needs_torch
@given(in_memory=torch_modules(), on_meta=torch_modules(device="meta"))
def test_weights_are_in_place_only_where_they_are_not_in_memory(warm_meta, in_memory, on_meta):
    for module in ModelTree.from_module(in_memory).modules:
        assert module.in_place == (not any(tensor.persistent for tensor in module.tensors))
    assert all(module.in_place for module in ModelTree.from_module(on_meta).modules)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda tree: bool(tree.ties),
        lambda tree: any(module.tensors and tree.subtree_end[at] > at + 1 for at, module in enumerate(tree.modules)),
        lambda tree: {"layers.1", "layers.10"} <= set(tree.index),
        lambda tree: {"a.b", "axb"} <= set(tree.index),
        lambda tree: bool(tree.kv_cache),
    ],
    ids=["ties", "tensors of containers", "layers.1 beside layers.10", "a.b beside axb", "kv caches"],
)
def test_generated_models_have_the_shapes_that_break_consumers(wanted):
    assert find(TREES, wanted, settings=settings(phases=[Phase.generate], max_examples=2000))  # not shrunk
