"""`host capture` and `model capture`: a file that plans as its source does, and does not say whose that is."""

import json
import platform
from dataclasses import replace

import pytest
from hypothesis import given
from tests.cli.harness import invoke

import devpolicy
from devpolicy import Host, ModelTree
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.model.catalogue import model_catalogue
from devpolicy.testing import simulate_host
from devpolicy.testing.strategies import model_trees


class TestHosts:
    def test_this_machine_is_written_as_a_host_that_can_be_loaded(self, tmp_path):
        file = tmp_path / "build-server.toml"
        result = invoke("host", "capture", "--output", str(file))
        assert (result.stdout, result.status) == ("", 0)
        host, here = Host.load(file), Host.probe()
        assert host.name == "build-server"
        # What is free changes from one moment to the next.
        assert replace(host, name=None, free=0, disk_free=0, accelerators=()) == replace(
            here, free=0, disk_free=0, accelerators=(), faults=host.faults
        )

    def test_without_a_file_it_goes_to_standard_output(self):
        result = invoke("host", "capture")
        assert Host.parse(result.stdout).memory == Host.probe().memory
        assert "left out: " in result.stderr
        assert "hostname" in result.stderr

    def test_the_machines_name_is_in_it_only_when_asked_for(self):
        node = platform.node()
        if len(node) < 2:
            pytest.skip("this machine has no name")
        assert Host.parse(invoke("host", "capture").stdout).name is None
        assert Host.parse(invoke("host", "capture", "--include", "uuid,hostname").stdout).name == node

    def test_a_name_of_ones_own_is_no_secret(self):
        result = invoke("host", "capture", "--name", "ci-runner")
        assert Host.parse(result.stdout).name == "ci-runner"
        assert "hostname" not in result.stderr

    def test_a_plan_is_the_same_on_the_captured_host(self, tmp_path):
        file = tmp_path / "here.toml"
        invoke("host", "capture", "--output", str(file))
        here = Host.load(file)
        told = devpolicy.plan("cpu-only", "bert-base", here)
        assert told.digest == devpolicy.plan("cpu-only", "bert-base", Host.probe()).digest

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--include", "uid"), "`--include` knows no `uid`"),
            (("--include", "uuid,"), "`--include` knows no ``"),
            (("--name", " "), "`--name` is empty"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, arguments, message):
        result = invoke("host", "capture", *arguments)
        assert (result.stdout, result.status) == ("", 2)
        assert message in result.stderr

    def test_a_likely_kind_is_suggested(self):
        assert "did you mean `uuid`?" in invoke("host", "capture", "--include", "uid").stderr

    def test_a_file_that_cannot_be_written_leaves_nothing(self, tmp_path):
        result = invoke("host", "capture", "--output", str(tmp_path / "no" / "where.toml"))
        assert result.status == 2
        assert "cannot write" in result.stderr
        assert list(tmp_path.iterdir()) == []


class TestSimulatedHosts:
    """The command asks `Host.probe()`, so inside a simulated host that one is captured."""

    @pytest.mark.parametrize("name", catalogue())
    def test_every_host_of_the_catalogue_comes_back(self, name, tmp_path):
        file = tmp_path / f"{name.rpartition('/')[2]}.toml"
        with simulate_host(name):
            told = invoke("host", "capture", "--include", "uuid", "--name", name, "--output", str(file))
        assert (told.stdout, told.stderr, told.status) == ("", "", 0)
        assert Host.load(file) == Host.load(name)

    def test_uuids_are_in_the_file_only_when_asked_for(self):
        one, *others = Host.load("2x24gb").accelerators
        uuid = "GPU-8f3c2a11-90bd-4f7e-9a55-0c2d7e6b1f42"
        host = replace(Host.load("2x24gb"), accelerators=(replace(one, uuid=uuid), *others))
        with simulate_host(host):
            without, kept = invoke("host", "capture"), invoke("host", "capture", "--include", "uuid,hostname")
        assert uuid not in without.stdout
        assert without.stderr == "left out: uuid, hostname; `--include uuid,hostname` keeps them\n"
        assert Host.parse(kept.stdout).accelerators == host.accelerators
        assert kept.stderr == ""


class TestModels:
    @pytest.mark.parametrize("name", model_catalogue())
    def test_every_model_of_the_catalogue_comes_back(self, name):
        result = invoke("model", "capture", name)
        assert ModelTree.parse(result.stdout) == ModelTree.load(name)
        assert result.stderr == ""

    @given(tree=model_trees())
    def test_every_tree_comes_back_from_a_captured_file(self, tree, tmp_path_factory):
        file = tmp_path_factory.mktemp("model") / "model.toml"
        file.write_text(tree.to_toml(), encoding="utf-8")
        assert ModelTree.parse(invoke("model", "capture", str(file), "--name", tree.name).stdout) == tree

    def test_a_configuration_plans_the_same_without_transformers(self, tmp_path):
        pytest.importorskip("transformers")
        config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 64, "n_head": 2}
        (tmp_path / "secret-project").mkdir()
        source = tmp_path / "secret-project" / "config.json"
        source.write_text(json.dumps({**config, "_name_or_path": str(tmp_path / "secret-project" / "my-model")}))
        file = tmp_path / "model.toml"
        assert invoke("model", "capture", str(source), "--output", str(file)).status == 0
        assert str(tmp_path) not in file.read_text()
        assert "secret-project" not in file.read_text()
        captured = ModelTree.load(file)
        assert captured == ModelTree.load(source)
        for host in ("2x24gb", "macbook-m3-36gb"):
            of_file = devpolicy.plan("prefer-accelerator", captured, host)
            assert of_file.digest == devpolicy.plan("prefer-accelerator", ModelTree.load(source), host).digest

    def test_a_checkpoint_keeps_what_its_headers_say(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("torch")
        config = transformers.AutoConfig.for_model("gpt2", n_layer=2, n_embd=16, n_head=2, vocab_size=32)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "tiny")
        result = invoke("model", "capture", str(tmp_path / "tiny"))
        assert ModelTree.parse(result.stdout) == ModelTree.load(tmp_path / "tiny")
        assert ModelTree.parse(result.stdout).name == "tiny"
        assert str(tmp_path) not in result.stdout

    def test_a_model_of_the_hubs_cache_is_not_called_by_its_hash(self, tmp_path, monkeypatch):
        pytest.importorskip("transformers")
        revision = "0123456789abcdef0123456789abcdef01234567"
        snapshot = tmp_path / "models--org--tiny" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": 8, "n_head": 1}
        (snapshot / "config.json").write_text(json.dumps(config))
        (snapshot / "pytorch_model.bin").touch()
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        result = invoke("model", "capture", "org/tiny")
        assert ModelTree.parse(result.stdout).name == "tiny"
        assert revision not in result.stdout

    def test_a_structure_that_is_not_known_in_full_is_a_warning(self, tmp_path):
        tree = replace(ModelTree.load("gpt2"), incomplete_reason="its weights are quantised (`awq`)")
        file = tmp_path / "awq.toml"
        file.write_text(tree.to_toml(), encoding="utf-8")
        result = invoke("model", "capture", str(file))
        assert ModelTree.parse(result.stdout).incomplete_reason == tree.incomplete_reason
        assert "is not known in full: its weights are quantised" in result.stderr

    def test_a_name_can_be_given(self):
        assert ModelTree.parse(invoke("model", "capture", "gpt2", "--name", "mine").stdout).name == "mine"
