"""`ModelTree` refuses what is no tree, and the TOML form says where."""

import pickle

import pytest

from devpolicy._core.model.tree import KVCache, ModelTree, Module, Tensor
from devpolicy.errors import ModelError


def tree(*paths, **rest):
    return ModelTree("m", tuple(Module(path, "M") for path in paths), **rest)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "a model's first module is its root, with an empty path"),
        (("a",), "a model's first module is its root, with an empty path"),
        (("", "a", "a"), "module `a` stands twice in one model"),
        (("", "a.b"), "module `a.b` does not follow its parent"),
        (("", "a", "b", "a.c"), "module `a.c` does not follow its parent"),
        (("", "a", "a."), "module `a.` does not follow its parent"),
        (("", "."), "module `.` does not follow its parent"),
        (("", ".a"), "module `.a` does not follow its parent"),
    ],
)
def test_modules_that_are_no_tree_in_pre_order_are_refused(paths, message):
    with pytest.raises(ModelError) as refused:
        tree(*paths)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "rest",
    [
        {"ties": (("a.w", "b.w"),)},
        {"ties": (("a",),)},
        {"kv_cache": (KVCache("b", 1),)},
        {"dtype": "float33"},
        {"metadata": (("a", "1"), ("a", "2"))},
    ],
)
def test_names_that_refer_to_nothing_are_refused(rest):
    with pytest.raises(ModelError):
        tree("", "a", **rest)


def test_a_tensor_belongs_to_one_tied_group():
    modules = (Module("", "M", (Tensor("a", ()), Tensor("b", ()), Tensor("c", ()))),)
    with pytest.raises(ModelError, match="tensor `a` is tied twice"):
        ModelTree("m", modules, ties=(("a", "b"), ("a", "c")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tensor("a.b", ()),
        lambda: Tensor("", ()),
        lambda: Tensor("a", (-1,)),
        lambda: Tensor("a", (), "float99"),
        lambda: Tensor("a", (), persistent=False),
        lambda: ModelTree("m", (Module("", "M", (Tensor("a", ()), Tensor("a", ()))),)),
    ],
)
def test_tensors_that_cannot_be_are_refused(make):
    with pytest.raises(ModelError):
        make()


def test_a_tree_survives_pickling():
    made = tree("", "a")
    assert pickle.loads(pickle.dumps(made)) == made


HEAD = 'name = "x"\n'
ROOT = HEAD + '[[module]]\npath = ""\nclass = "M"\n'


@pytest.mark.parametrize(
    ("text", "code", "line", "message"),
    [
        ('name = "x"\n', "DP105", 1, "`module` is missing in a model file"),
        (ROOT.replace('"x"', f'"{"x" * 1001}"'), "DP104", 1, "the name of a model has at most 1,000 characters"),
        ("nam = 1\n" + ROOT, "DP103", 1, "unknown key `nam` in a model file"),
        ('name = "x"\n[[module]]\nclass = "M"\n', "DP105", 2, "`path` is missing in [[module]]"),
        (ROOT + '[[module]]\npath = "a.b"\nclass = "M"\n', "DP104", 6, "`a` is not written before its child"),
        (ROOT + '[[module]]\npath = "a..b"\nclass = "M"\n', "DP104", 6, "`a..b` has an empty name"),
        (ROOT + '[[module]]\npath = "{3..1}"\nclass = "M"\n', "DP104", 6, "the range `{3..1}` is empty"),
        (ROOT + '[[module]]\npath = "{0..999999999}"\nclass = "M"\n', "DP104", 6, "more than are read"),
        (ROOT + '[[module]]\npath = "{0..3}"\nclass = "M"\n' + '[[module]]\npath = "{2..5}"\nclass = "M"\n', "DP104", 9,
         "module `2` is written twice"),
        (ROOT + 'tensors = { w = [2.5] }\n', "DP102", 5, "takes an integer"),
        (ROOT + 'tensors = { "a.b" = [2] }\n', "DP104", 5, "a tensor's name"),
        (ROOT + 'tensors = { w = { shape = [2], dtype = "bfloat15" } }\n', "DP104", 5, "`bfloat15` is no value"),
        (ROOT + '[[kv_cache]]\nmodule = "a"\nvalues = 1\n', "DP202", 6, "`a` is no module of this model"),
        ('ties = [["a.w", "b.w"]]\n' + ROOT, "DP202", 1, "`a.w` is no tensor of this model"),
        ("schema = 2\n" + ROOT, "DP107", 1, "schema 1 only"),
        ("module = 3\n" + HEAD, "DP102", 1, "not an integer"),
        ("name = \n", "DP101", 1, "not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_model_file_is_shown_where_it_is(text, code, line, message):
    with pytest.raises(ModelError) as refused:
        ModelTree.parse(text, "m.toml")
    finding = refused.value.diagnostics[0]
    assert (finding.code, finding.place.line) == (code, line)
    assert message in finding.message


def test_every_finding_is_shown_at_once():
    with pytest.raises(ModelError) as refused:
        ModelTree.parse('name = 1\ncontext = "x"\n' + '[[module]]\npath = 3\nclass = "M"\n')
    assert len(refused.value.diagnostics) == 3


def test_a_small_file_cannot_claim_more_text_than_is_read():
    long = "x" * 100_000
    text = ROOT + f'[[module]]\npath = "{long}"\nclass = "M"\n[[module]]\npath = "{long}.{{0..900000}}"\nclass = "M"\n'
    with pytest.raises(ModelError, match="more than are read"):
        ModelTree.parse(text)


def test_ranges_nest_and_keep_pre_order():
    text = ROOT + "".join(
        f'[[module]]\npath = "{path}"\nclass = "M"\n' for path in ("l", "l.{0..1}", "l.{0..1}.e", "l.{0..1}.e.{8..9}")
    )
    assert [module.path for module in ModelTree.parse(text).modules] == [
        "", "l", "l.0", "l.0.e", "l.0.e.8", "l.0.e.9", "l.1", "l.1.e", "l.1.e.8", "l.1.e.9",
    ]  # fmt: skip
