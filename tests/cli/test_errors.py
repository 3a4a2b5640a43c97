"""Every way out: exit statuses, messages, and no traceback."""

import json
import re
from contextlib import suppress

import click
import pytest
from tests.cli.harness import Result, commands, invoke

from devpolicy._core.cli.app import App
from devpolicy.errors import DevPolicyWarning

GPT2 = ("--model", "gpt2", "--host", "2x24gb")

REFUSED = [
    (("check", "cpu-only"), 0, ""),
    (("check", "no-such-policy"), 2, "DP202"),
    (("plan", "no-such-policy", *GPT2), 2, "DP202"),
    (("plan", "cpu-only", "--model", "gtp2", "--host", "2x24gb"), 2, "did you mean `gpt2`?"),
    (("plan", "cpu-only", "--model", "gpt2", "--host", "2x24"), 2, "did you mean `2x24gb`?"),
    (("plan", "cpu-only", *GPT2, "--hots", "x"), 2, "did you mean `--host`?"),
    (("plan", "cpu-only"), 2, "write `--model MODEL`"),
    (("plan", "cpu-only", *GPT2, "--json"), 2, "did you mean `--format json`?"),
    (("plan", "cpu-only", "--model", "./no-such-folder"), 2, "a path counts from the current folder"),
    (("plan", "cpu-only", "--model", "no-such-model"), 2, "`devpolicy model list` shows the catalogue"),
    (("plan", ".", *GPT2), 2, "name a file inside of it"),
    (("report", "cpu-only", "-o", "r.html"), 2, "write `--models MODEL`"),
    (("report", "cpu-only", "-o", "r.html", "--models", ","), 2, "no model is given"),
    (("playground", "--pyodide", "x" * 300), 2, "holds no Pyodide"),
    (("plan", "cpu-only", "--model", "llama3.1:8b"), 2, "did you mean `llama-3.1-8b`"),
    (("plan", "cpu-only", "--model", "https://huggingface.co/a/b/tree/main"), 2, "`hf://a/b` reads the headers"),
    (("plan", "cpu-only", "--model", "meta-llama/Llama-3.1-8B"), 2, "or plan `llama-3.1-8b`"),
    (("plan", "cpu-only", *GPT2, "--context", "512"), 2, "did you mean `--set workload.context=VALUE`?"),
    (("plan", "cpu-only", *GPT2, "--set", "context=512"), 2, "did you mean `workload.context`?"),
    (("plan", *GPT2), 2, "or one that ships, such as `prefer-accelerator`"),
    (("test",), 2, "`devpolicy init` writes one"),
    (("host", "2x24gb"), 2, "`devpolicy host show 2x24gb` shows what has this name"),
    (("resolve", "examples/haystack-rag/rag.yaml"), 2, "a saved pipeline is given with `--pipeline`"),
    (("plan", "cpu-only", *GPT2, "--locked", "pyproject.toml"), 2, "write one with `--format json --output FILE`"),
    (("show", "--host", "2x24gb"), 2, "missing argument `POLICY`"),
    (("test", "no-such-policy"), 2, "there is no policy `no-such-policy`"),
    (("diff", "cpu-only", "cpu-only", "--models", "z*"), 2, "`devpolicy model list` shows them"),
    (("plan", "cpu-only", "--modl", "gpt2"), 2, "`devpolicy plan --help` shows what it takes"),
    (("why", "cpu-only", "lm_head"), 2, "write `--model MODEL`"),
    (("plan", "cpu-only", *GPT2, "--to", "jax"), 2, "jax"),
    (("plan", "cpu-only", *GPT2, "--model", "bert-base"), 2, "write `--model NAME=gpt2`"),
    (("plan", "cpu-only", "--model", "a=gpt2", "--model", "a=gpt2"), 2, "component `a` is given twice"),
    (("plan", "cpu-only", "--model", "a=gpt2", "--component", "b"), 2, "no `--model` is named `b`"),
    (("plan", "offload-lm-head", "--model", "llama-3.1-8b", "--host", "cpu-only"), 3, "DP301"),
    (("plan", "offload-lm-head", *GPT2), 3, "DP401"),
    (("plan", "offload-lm-head", "--model", "llama-3.1-8b", "--host", "2x24gb", "--to", "torch"), 3, "DP409"),
    (("resolve", "offload-lm-head", "--host", "cpu-only"), 3, "DP301"),
    (("why", "cpu-only", "transformer.h.99", *GPT2), 2, "has no module `transformer.h.99`"),
    (("why", "cpu-only", "transformer.wte.weight", *GPT2), 2, "ask for `transformer.wte`"),
    (("host", "show", "ecc-on-query"), 2, "did you mean `faulty/ecc-on-query`?"),
    (("model", "show", "no/such-model"), 2, "not in the local Hugging Face cache"),
    (("explain", "DP31"), 2, "there is no code `DP31`"),
    (("plan", "no-such-policy.toml", *GPT2), 2, "a path counts from the current folder"),
    (("plan", "cpu-only", "--model", "C:\\models\\llama"), 2, "there is no model, file or folder `C:\\models\\llama`"),
    (("targets", "no-such-target"), 2, "there is no target"),
    (("help",), 2, "`devpolicy --help` lists all"),
    (("PLAN",), 2, "did you mean `plan`?"),
    (("paln",), 2, "did you mean `plan`?"),
    (("host", "lits"), 2, "lits"),
    ((), 2, "Usage"),
]
REFUSED_IDS = [" ".join(arguments) or "nothing" for arguments, _, _ in REFUSED]


@pytest.mark.parametrize(("arguments", "status", "said"), REFUSED, ids=REFUSED_IDS)
def test_the_exit_status_and_the_message(arguments, status, said):
    result = invoke(*arguments)
    assert result.status == status
    assert said in (result.stdout if arguments[:1] == ("check",) else result.stderr)
    assert bool(result.stdout) == (arguments[:1] == ("check",)), "errors are no output, but the findings of check are"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(arguments, status) for arguments, status, _ in REFUSED if status and arguments and arguments[0] != "check"],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_one_json_value_on_standard_output(arguments, status):
    result = invoke(*arguments, "--format", "json")
    assert result.status == status
    assert result.stderr == ""
    value = json.loads(result.stdout)
    assert value["schema"] == 1
    assert value["errors"]
    for error in value["errors"]:
        assert list(error) == ["code", "severity", "message", "place", "label", "notes", "help"]
        assert error["code"] is None or re.fullmatch(r"DP\d{3}", error["code"])
        assert error["severity"] == "error"


def test_a_usage_error_is_written_like_every_other():
    finding = json.loads(invoke("plan", "x", "--model", "gpt2", "--to", "jax", "--format=json").stdout)["errors"][0]
    assert finding["message"][0].islower()
    assert not finding["message"].endswith(".")


def test_strict_makes_warnings_fail(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = ["cuda", "cuda:1"]\n')
    assert invoke("check", str(policy)).status == 0
    result = invoke("check", str(policy), "--strict")
    assert (result.status, "DP503" in result.stdout) == (1, True)
    assert result.stdout.endswith("1 policy, 0 errors, 1 warning\n")


def test_an_error_counts_more_than_a_warning(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = ["cuda", "cuda:1"]\n')
    assert invoke("check", str(policy), "no-such-policy", "--strict").status == 2


def test_check_with_a_model_tells_rules_that_decide_nothing(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text(
        'prefer = "cuda"\n[offload]\n"transformer.h.*" = "disk"\n"transformer.h.3" = "cpu"\n'
        '"transformer.drop" = "cpu"\n"model.layers.0" = "cpu"\n'
    )
    assert invoke("check", str(policy)).status == 0
    result = invoke("check", str(policy), "--model", "gpt2", "--strict", "--format", "json")
    findings = json.loads(result.stdout)["policies"][0]["findings"]
    assert [(finding["code"], finding["place"]["line"]) for finding in findings] == [
        ("DP502", 4),
        ("DP501", 5),
        ("DP501", 6),
    ]
    assert [finding["severity"] for finding in findings] == ["error", "warning", "warning"]
    assert "before it `offload.transformer.h.*` decides" in findings[0]["message"]
    assert "hold no tensors" in findings[1]["message"]
    assert result.status == 1
    assert invoke("check", str(policy), "--model", "gpt2").status == 1
    assert invoke("plan", str(policy), *GPT2).status == 2


def test_check_with_a_model_tells_a_pattern_that_names_a_tensor(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\n[offload]\n"lm_head.weight" = "disk"\n')
    result = invoke("check", str(policy), "--model", "gpt2")
    assert (result.status, "DP203" in result.stdout) == (2, True)


def test_what_is_said_without_effect_is_told_once(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = ["cuda", "cuda:1"]\n')
    for command in [("plan", str(policy), *GPT2, "--format", "json"), ("resolve", str(policy), "--host", "2x24gb")]:
        result = invoke(*command)
        assert result.status == 0
        assert result.stderr.count("warning[DP503]") == 1
        assert "DP503" not in result.stdout


def test_rules_that_need_a_model_are_told():
    result = invoke("resolve", "offload-lm-head", "--host", "2x24gb", "--to", "torch")
    assert result.stdout == "cuda:0\n"
    assert result.stderr.count("warning[DP504]") == 1


class Counterexample(App):
    """The application with one command that is broken in a way that is given."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def get_command(self, ctx, cmd_name):
        @click.command()
        def command():
            self.fault()

        return command


def run_broken(fault, *options: str) -> Result:
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        Counterexample(fault).main(["plan", *options], "devpolicy")
    return Result(out.getvalue(), err.getvalue(), left.value.code)


def test_a_bug_of_ours_is_one_line_and_exits_with_70():
    def fault():
        raise KeyError("two\nlines")

    result = run_broken(fault)
    assert result.status == 70
    first, second = result.stderr.splitlines()
    assert first.startswith("error: this is a bug in devpolicy: KeyError: ")
    assert "(test_errors.py:" in first
    assert "report" in second


def test_an_interrupt_exits_with_130_and_says_nothing():
    def fault():
        raise KeyboardInterrupt

    result = run_broken(fault)
    assert (result.status, result.stdout, result.stderr.strip()) == (130, "", "")


def test_a_warning_is_told_once_and_those_of_libraries_are_not():
    import warnings

    def fault():
        for _ in range(3):
            warnings.warn("`x` has no effect", DevPolicyWarning, stacklevel=1)
            warnings.warn("old", FutureWarning, stacklevel=1)

    result = run_broken(fault)
    assert (result.status, result.stderr) == (0, "warning: `x` has no effect\n")


def test_every_command_teaches_with_examples():
    for path, _ in commands():
        result = invoke(*path, "--help")
        assert result.status == 0
        assert f"  devpolicy {' '.join(path)}" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("path", "command"), [*commands()])
def test_no_option_is_dropped_silently(path, command):
    for option in command.params:
        if isinstance(option, click.Option) and not (option.is_flag or option.multiple):
            name = max(option.opts, key=len)
            with pytest.warns(DevPolicyWarning, match=f"`{name}` takes one value"), suppress(click.UsageError):
                command.make_context(path[-1], [name, "1", name, "2"])


def test_the_last_value_counts_and_that_is_said():
    result = invoke("plan", "cpu-only", *GPT2, "--host", "cpu-only")
    assert (result.status, "host    cpu-only" in result.stdout) == (0, True)
    assert "warning: `--host` takes one value, and is given 2 times: the last one counts\n" in result.stderr


def test_o_is_output_everywhere():
    outputs = [option.opts for _, command in commands() for option in command.params if "--output" in option.opts]
    assert len(outputs) == 6
    assert all("-o" in names for names in outputs)


def test_a_policy_without_tests_is_told_how_to_write_one(tmp_path):
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\n')
    result = invoke("test", str(policy))
    assert result.status == 2
    assert "write one: `[[test]]` with" in result.stderr


@pytest.mark.parametrize("group", [(), ("host",), ("model",), ("simulator",)], ids=" ".join)
def test_no_command_is_described_by_half_a_sentence(group):
    result = invoke(*group, "--help")
    assert "..." not in result.stdout.partition("Commands:")[2]
