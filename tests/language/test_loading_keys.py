"""`[loading]`: what its keys take, how they merge, and where they are shown."""

import pytest

from devpolicy import Policy, PolicyError
from devpolicy._core.language.effective import effective
from devpolicy._core.language.policy import LoadingTable


def loading(text, component=None):
    return Policy.parse(f'prefer = "cuda"\n{text}').for_component(component).loading


def test_one_word_is_a_list_of_one():
    assert loading('[loading]\nquantization = "none"\nadapter = "lora"') == LoadingTable(
        quantization=("none",), adapter=("lora",)
    )
    assert loading('[loading]\nadapter = ["a", "b"]').adapter == ("a", "b")
    assert loading("") == LoadingTable()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('quantization = "nff4"', "DP104", "did you mean `nf4`?"),
        ('attention = "spda"', "DP104", "did you mean `sdpa`?"),
        ('architecture = "a.b"', "DP104", "AutoModel"),
        ('variant = "../fp16"', "DP104", "fp16"),
        ('adapter = ""', "DP104", "./lora"),
        ('adapter = "~/lora"', "DP104", "in full"),
        ("adapter = []", "DP104", ""),
        ("quantization = []", "DP104", ""),
        ("attention = 2", "DP102", ""),
        ('adapters = "a"', "DP103", "did you mean `adapter`?"),
    ],
)
def test_what_is_wrong_has_a_place_and_a_way_out(line, code, said):
    with pytest.raises(PolicyError) as refused:
        loading(f"[loading]\n{line}")
    (finding,) = refused.value.diagnostics
    assert finding.code == code
    assert finding.place.line == 3
    assert said in (finding.help or "")


def test_components_merge_key_by_key():
    text = '[loading]\nattention = "eager"\nvariant = "fp16"\n[component.a.loading]\nattention = "sdpa"'
    assert loading(text, "a") == LoadingTable(attention="sdpa", variant="fp16")
    assert loading(text, "b") == LoadingTable(attention="eager", variant="fp16")


def test_what_only_needs_bytes_is_not_loaded():
    with pytest.raises(PolicyError, match="DP106"):
        Policy.parse('[component.a]\nprefer = "cuda"\nneeds = "1 GiB"\nloading.attention = "sdpa"')


def test_overlays_and_set():
    policy = Policy.parse(
        'prefer = "cuda"\nloading.attention = "eager"\nloading.quantization = ["nf4", "int8"]\n'
        '[profile.p.loading]\nquantization = "none"'
    ).with_overrides(profile="p", values=["loading.variant=fp16"])
    from devpolicy import Host

    resolved = policy.for_host(Host(memory="8 GiB"))
    assert resolved.loading == LoadingTable(quantization=("none",), attention="eager", variant="fp16")


def test_folders_are_relative_to_the_file_that_names_them(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "base.toml").write_text('prefer = "cuda"\n[loading]\nadapter = ["lora", "/abs/lora"]\n')
    (tmp_path / "top.toml").write_text('extends = "inner/base.toml"\nloading.variant = "fp16"\n')
    assert Policy.load(tmp_path / "top.toml").loading.adapter == (str(inner / "lora"), "/abs/lora")


def test_show_has_every_key():
    shown = {value.key: value for value in effective(Policy.parse('prefer = "cuda"\nloading.attention = "eager"'))}
    assert shown["loading.attention"].value == "eager"
    assert shown["loading.attention"].place.line == 2
    assert shown["loading.quantization"].place is None
