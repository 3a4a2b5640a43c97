"""Saved pipelines from strangers: what is refused, and within which limits the rest is read."""

import json
import os

import pytest
from tests.cli.harness import invoke

from devpolicy._core.targets.haystack_components import yaml_file
from devpolicy._core.targets.haystack_components.survey import read_pipeline
from devpolicy.errors import DevPolicyError

pytest.importorskip("yaml")

ALIASES = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(30))
MERGED = "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20))

REFUSED = {
    "values behind aliases": (ALIASES + "components: {}\n", "more than 100000 values"),
    "keys that are merged": ("a0: &a0 {k: v}\n" + MERGED + "components: {}\n", "merge keys"),
    "a value inside of itself": ("components: &c {a: {type: t, init_parameters: *c}}\n", "nested deeper"),
    "lists without end": ("components: " + "[" * 100_000, "nest(ed|ing)"),
    "tables without end": ("components: " + "{a: " * 5_000, "nested deeper"),
    "a number of base 60": ("components: " + "1:" * 300_000 + "1\n", "a number of more than 400 digits"),
    "a number of many digits": ("components: " + "9" * 100_000, "a number of more than 400 digits"),
    "an object of Python": ("components: !!python/object/apply:os.system ['touch PWNED']\n", "is not YAML"),
    "a tag that its value does not fit": ("components: !!timestamp x\n", "is not YAML"),
    "no number": ("components: !!int ''\n", "is not YAML"),
    "neither true nor false": ("components: !!bool x\n", "is not YAML"),
    "no day": ("components: 2001-99-99\n", "is not YAML"),
    "a key that is a list": ("components: {? [a] : b}\n", "is not YAML"),
    "two documents": ("components: {}\n---\ncomponents: {}\n", "is not YAML"),
    "more than a pipeline": ("# " + "x" * (1 << 20), "larger than 1 MiB"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_pipeline_that_nobody_saved_is_refused(what, tmp_path):
    text, said = REFUSED[what]
    (tmp_path / "rag.yaml").write_text(text)
    with pytest.raises(DevPolicyError, match=said) as caught:
        read_pipeline(tmp_path / "rag.yaml")
    assert "rag.yaml" in str(caught.value)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_both_loaders_of_yaml_refuse_merge_keys(loader, tmp_path, monkeypatch):
    import yaml

    if loader == "SafeLoader":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    (tmp_path / "rag.yaml").write_text("a: &a {k: v}\nb: {<<: *a}\n")
    with pytest.raises(DevPolicyError, match="merge keys"):
        yaml_file.read_yaml(tmp_path / "rag.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "rag.yaml").write_bytes(b"components: \xff\n")
    with pytest.raises(DevPolicyError, match="is not YAML"):
        read_pipeline(tmp_path / "rag.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a directory")):
        with pytest.raises(DevPolicyError, match=said):
            read_pipeline(path)


@pytest.mark.parametrize("parameters", ["[1]", "text", "5", "null", "{1: 2}", "{backend: [torch]}", "{device: {}}"])
def test_init_parameters_of_any_kind_are_read(parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cls = (
        "haystack_integrations.components.embedders.sentence_transformers"
        ".sentence_transformers_text_embedder.SentenceTransformersTextEmbedder"
    )
    (tmp_path / "rag.yaml").write_text(f"components: {{a: {{type: {cls}, init_parameters: {parameters}}}}}\n")
    for command in (["resolve", "prefer-accelerator", "--host", "1x24gb"], ["check", "prefer-accelerator"]):
        out, err, status = invoke(*command, "--pipeline", "rag.yaml")
        assert status in (0, 1, 2, 3), out + err
        assert "Traceback" not in out + err


def test_what_is_shared_in_a_pipeline_is_read_where_it_is_used(tmp_path):
    (tmp_path / "rag.yaml").write_text(
        "components:\n  a: {type: x.A, init_parameters: &p {n: 1}}\n  b: {type: x.B, init_parameters: *p}\n"
    )
    assert [(one.name, dict(one.params)) for one in read_pipeline(tmp_path / "rag.yaml")] == [
        ("a", {"n": 1}),
        ("b", {"n": 1}),
    ]


def test_a_large_pipeline_is_read(tmp_path):
    components = {f"c{n}": {"type": "x.A", "init_parameters": {"prompt": "y" * 200}} for n in range(3_000)}
    (tmp_path / "rag.yaml").write_text(json.dumps({"components": components}))
    assert len(read_pipeline(tmp_path / "rag.yaml")) == 3_000
