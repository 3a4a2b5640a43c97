"""What a policy asks for is told to the engine, or the policy is refused, or a warning says that it is not told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.targets.asked import PAGE, with_table

from devpolicy import Accelerator, Host, Policy, plan
from devpolicy._core.abilities import target_of
from devpolicy._core.cli.output_formats import OUTPUT_FORMATS
from devpolicy._core.conformance.targets import _model
from devpolicy.errors import Unsatisfiable

ASKED = {
    "dtype": ("workload.dtype = 'float16'", "workload.dtype = 'bfloat16'"),
    "context": ("workload.context = 512", "workload.context = 3000"),
    "batch": ("workload.batch = 1", "workload.batch = 3"),
    "kv_dtype": ("workload.kv_dtype = 'float8_e5m2'", "workload.kv_dtype = 'float16'", "workload.kv_dtype = 'float32'"),
    "attention": ("loading.attention = 'eager'", "loading.attention = 'sdpa'"),
}


def test_the_page_says_what_becomes_of_what_is_asked():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "python -m tests.targets.asked"


SAYS = {
    "hf": {"dtype", "attention"},
    "llama.cpp": {"context", "batch", "kv_dtype"},
    "vllm": {"dtype", "context", "batch", "kv_dtype"},
    "sglang": {"dtype", "context", "batch", "kv_dtype"},
    "exllamav3": {"context", "batch"},
}
"""What the forms of those say that load the model. The other targets are given devices."""
TARGETS = ("hf", "haystack", "torch", "spacy", "llama.cpp", "onnx", "vllm", "sglang", "exllamav3")


def told(text, target, host):
    """Return the plan and its forms, or nothing where it is refused."""
    tree = _model(max(target_of(target).abilities.reads))
    try:
        made = plan(Policy.parse(text), tree, host, target=target)
        forms = {name: form[1](made, host) for name, form in OUTPUT_FORMATS.items() if form.target in (target, None)}
    except Unsatisfiable as refused:
        assert all(one.code and one.message for one in refused.diagnostics)
        return None
    return made, forms


@settings(deadline=None)
@given(
    target=st.sampled_from(TARGETS),
    sizes=st.lists(st.sampled_from((2, 8, 64, 1024)), min_size=1, max_size=4),
    split=st.sampled_from(("when-needed", "balanced", "fastest")),
    overflow=st.sampled_from(("", "overflow = 'cpu'\n")),
    key=st.sampled_from(sorted(ASKED)),
    data=st.data(),
)
def test_what_is_asked_is_told_or_refused(target, sizes, split, overflow, key, data):
    one, other = data.draw(st.permutations(ASKED[key]))[:2]
    host = Host([Accelerator("cuda", memory=f"{size} MiB") for size in sizes], memory="64 GiB")
    base = f"prefer = 'cuda'\nsplit = {split!r}\n{overflow}memory.cuda = {{ headroom = 0, basis = 'total' }}\n"
    found = [told(base + asked, target, host) for asked in (one, other)]
    for made, forms in filter(None, found):
        used = [device for device in made.ledger if device.startswith("cuda")]
        assert len(str(forms["env"]["CUDA_VISIBLE_DEVICES"]).split(",")) == len(used)
        if key == "attention" and key not in target_of(target).abilities.carries:
            assert any("does not take `loading.attention`" in warning.message for warning in made.warnings)
    if None not in found and key in SAYS.get(target, ()):
        (made, first), (_, second) = found
        assert key in target_of(target).abilities.carries
        assert all(first[name] != second[name] for name in first if name != "env"), (one, other, made)
