import pytest

from devpolicy._core.language.comparisons import SizeTest
from devpolicy._core.language.patterns import Pattern
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, Policy, ResolvedPolicy, Rule, Workload
from devpolicy._core.sizes import GIB, MIB
from devpolicy.errors import PolicyError

CUDA, MPS, CPU, DISK = DeviceSelector("cuda"), DeviceSelector("mps"), DeviceSelector("cpu"), DeviceSelector("disk")


def rules(text: str) -> tuple[Rule, ...]:
    return Policy.parse('prefer = "cuda"\n' + text).rules


def memory(text: str) -> tuple[MemoryRule, ...]:
    return Policy.parse('prefer = "cuda"\n' + text).memory


def test_the_smallest_policy_takes_every_default():
    assert Policy.parse('prefer = "cuda"').top == ResolvedPolicy(prefer=(CUDA,))


def test_text_and_bytes_are_read_alike():
    text = 'prefer = ["cuda"]\n\n[offload]\n"módel" = "disk"\n'
    expected = Policy.parse(text)
    assert Policy.parse(text.encode()) == expected
    assert Policy.parse(text.replace("\n", "\r\n").encode()) == expected
    assert Policy.parse("\ufeff" + text) == expected
    assert Policy.parse(("\ufeff" + text).encode()) == expected


def test_top_level_keys_are_read():
    policy = Policy.parse("""
schema = 1
prefer = ["cuda:1", { device = "cuda", count = 2, same = ["name", "memory"] }, { device = "xpu", same = "name" }, "cpu"]
overflow = ["cpu", "disk"]
avoid = "cuda:0"
split = "balanced"
ties = "follow"
""")
    assert policy.prefer == (
        DeviceSelector("cuda", 1),
        DeviceSelector("cuda", None, 2, ("name", "memory")),
        DeviceSelector("xpu", same=("name",)),
        CPU,
    )
    assert policy.overflow == (CPU, DISK)
    assert policy.avoid == (DeviceSelector("cuda", 0),)
    assert (policy.split, policy.ties) == ("balanced", "follow")
    assert not policy.warnings


def test_a_list_of_nothing_to_avoid_avoids_nothing():
    assert Policy.parse('prefer = "cuda"\navoid = []').avoid == ()


def test_the_shorthand_makes_rules():
    found = rules('[offload]\nlm_head = "disk"\nmodel.embed_tokens = ["cpu", "disk"]\n"model.layers.{16..}" = "cpu"')
    assert [(rule.name, rule.match, rule.offload) for rule in found] == [
        ("offload.lm_head", (Pattern("lm_head"),), (DISK,)),
        ("offload.model.embed_tokens", (Pattern("model.embed_tokens"),), (CPU, DISK)),
        ("offload.model.layers.{16..}", (Pattern("model.layers.{16..}"),), (CPU,)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[offload]\nmodel.layers = "cpu"',
        '[offload]\n"model.layers" = "cpu"',
        '[offload]\nmodel = { layers = "cpu" }',
        '[offload.model]\nlayers = "cpu"',
        'offload.model.layers = "cpu"',
        'offload = { "model.layers" = "cpu" }',
    ],
)
def test_every_way_to_write_a_dotted_key_means_the_dotted_path(text):
    (rule,) = rules(text)
    assert (rule.name, rule.match) == ("offload.model.layers", (Pattern("model.layers"),))


def test_a_rule_is_read():
    (rule,) = rules("""
[[rule]]
name = "experts"
match = ["**.experts", "**.shared_expert"]
class = "*Experts"
size = ">= 256 MiB"
prefer = ["cuda:1", "cpu"]
together = true
ties = "skip"
on_exhausted = "next"
reason = "the largest part"
""")
    assert rule == Rule(
        "experts",
        match=(Pattern("**.experts"), Pattern("**.shared_expert")),
        module_class=("*Experts",),
        size=SizeTest(">=", 256 * MIB),
        prefer=(DeviceSelector("cuda", 1), CPU),
        together=True,
        ties="skip",
        on_exhausted="next",
        reason="the largest part",
    )


def test_a_rule_without_a_name_has_a_number():
    found = rules("""
[[rule]]
match = "a"
together = true
[[rule]]
name = "mine"
match = "b"
together = true
[offload]
c = "cpu"
[[rule]]
match = "d"
together = true
""")
    assert [rule.name for rule in found] == ["rule 1", "mine", "offload.c", "rule 3"]


def test_rules_keep_their_written_order_wherever_they_stand():
    found = rules("""
[[rule]]
name = "first"
match = "a"
offload = "cpu"

[offload]
b.x = "cpu"
c = "cpu"
b.y = "cpu"

[[rule]]
name = "last"
class = "Linear"
offload = "cpu"

[offload.d]
e = "cpu"
""")
    assert [rule.name for rule in found] == ["first", "offload.b.x", "offload.c", "offload.b.y", "last", "offload.d.e"]


def test_a_rule_knows_where_it_selects():
    found = rules(
        '[offload]\nlm_head = "disk"\n[[rule]]\noffload = "cpu"\nmatch = "a"\n[[rule]]\nclass = "B"\noffload = "cpu"'
    )
    places = [(rule.place.line, rule.place.column, rule.place.length) for rule in found if rule.place]
    assert places == [(3, 1, 7), (6, 1, 5), (8, 1, 5)]


def test_the_place_of_prefer_is_known():
    place = Policy.parse('# where\n\nprefer = "cuda"', "p.toml").top.prefer_place
    assert str(place) == "p.toml:3:1"


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ('"20 GiB"', Amount(20 * GIB)),
        ('"90%"', Amount(0, 90)),
        ('" 12.5 % "', Amount(0, 12.5)),
        ("0", Amount()),
        ("21474836480", Amount(20 * GIB)),
        ('["1 GiB", "2%"]', Amount(GIB, 2)),
        ('["1 GiB", "2%", 1073741824, "0.5%"]', Amount(2 * GIB, 2.5)),
    ],
)
def test_amounts(written, amount):
    assert memory(f"[memory]\ncuda = {written}") == (MemoryRule(CUDA, cap=amount),)


def test_memory_is_read():
    assert memory("""
[memory]
cuda = "20 GiB"
"cuda:1" = { cap = "90%", basis = "total", headroom = ["1 GiB", "2%"] }

[memory.cpu]
reserve = { kv_cache = "2 GiB", activations = 0 }
""") == (
        MemoryRule(CUDA, cap=Amount(20 * GIB)),
        MemoryRule(DeviceSelector("cuda", 1), basis="total", cap=Amount(0, 90), headroom=Amount(GIB, 2)),
        MemoryRule(CPU, kv_cache=Amount(2 * GIB), activations=Amount()),
    )


def test_the_folder_of_the_disk_stays_as_written():
    policy = Policy.parse('prefer = "cuda"\n[memory.disk]\npath = "offload"\n')
    assert policy.disk_path == "offload"
    assert policy.memory == ()
    capped = Policy.parse('prefer = "cuda"\n[memory.disk]\npath = "offload"\ncap = "100 GB"\n')
    assert capped.memory == (MemoryRule(DISK, cap=Amount(100 * 10**9)),)


def test_the_workload_is_read():
    text = (
        'prefer = "cuda"\n[workload]\ncontext = 8192\nbatch = 4\n'
        'dtype = "bfloat16"\nkv_dtype = "float8_e4m3fn"\nnew_tokens = 256'
    )
    assert Policy.parse(text).workload == Workload(8192, 4, "bfloat16", "float8_e4m3fn", new_tokens=256)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('prefer = ["cuda", "cuda"]', [(1, 19)]),
        ('prefer = ["cuda", "cuda:1"]', [(1, 19)]),
        ('prefer = ["cuda", { device = "cuda", count = 2 }]', [(1, 19)]),
        ('prefer = ["cuda:1", "cuda"]', []),
        ('prefer = [{ device = "cuda", count = 2 }, "cuda"]', []),
        ('prefer = ["cuda", "cpu"]\navoid = "cpu"', [(1, 19)]),
        ('prefer = ["cuda"]\navoid = "cuda:1"', []),
        ('prefer = "cuda"\noverflow = ["cpu", "cpu"]', [(2, 20)]),
        ('prefer = "cuda"\navoid = ["cpu", "cpu"]', [(2, 17)]),
    ],
)
def test_a_device_that_can_never_be_used_is_a_warning(text, warned):
    policy = Policy.parse(text)
    assert [finding.code for finding in policy.warnings] == ["DP503"] * len(warned)
    assert [(finding.place.line, finding.place.column) for finding in policy.warnings if finding.place] == warned


@pytest.mark.parametrize("text", [None, 3, ["prefer"], bytearray(b"")])
def test_what_is_neither_text_nor_bytes_is_refused(text):
    with pytest.raises(PolicyError) as refused:
        Policy.parse(text)
    assert refused.value.code == "DP102"


@pytest.mark.parametrize(
    ("amount", "basis", "expected"),
    [
        (Amount(5, 0), 100, 5),
        (Amount(0, 29), 100, 29),
        (Amount(1, 2), 1000, 21),
        (Amount(0, 29.7), 1000, 297),
        (Amount(0, 100), 2**62 + 1, 2**62 + 1),
        (Amount(0, 33.333333), 3, 0),
    ],
)
def test_an_amount_is_exact_to_the_byte(amount, basis, expected):
    assert amount.of(basis) == expected


@pytest.mark.parametrize(
    ("operator", "holds"),
    [(">=", (False, True, True)), (">", (False, False, True)), ("<=", (True, True, False)),
     ("<", (True, False, False)), ("==", (False, True, False))],
)  # fmt: skip
def test_size_tests(operator, holds):
    (rule,) = rules(f'[[rule]]\nsize = "{operator}10 B"\noffload = "cpu"')
    assert rule.size is not None
    assert tuple(rule.size.holds(size) for size in (9, 10, 11)) == holds


def test_a_term_is_written_as_it_is_read():
    assert [str(term) for term in (CUDA, DeviceSelector("cuda", 1), DISK)] == ["cuda", "cuda:1", "disk"]
