"""`devpolicy fit`: one question is one line, many are a table, and a program gets every verdict."""

from __future__ import annotations

import json

from tests.cli.harness import invoke
from tests.views.markup import Page

SCHEMES = ("none", "int8", "nf4")
ASKED = [word for scheme in SCHEMES for word in ("--quantization", scheme)]


def told(*arguments: str) -> str:
    run = invoke("fit", "prefer-accelerator", *arguments)
    assert run.stderr == ""
    return run.stdout


def test_one_question_is_one_line() -> None:
    line = told("--model", "llama-3.3-70b", "--host", "2x24gb")
    assert line.count("\n") == 1
    assert line.startswith("llama-3.3-70b on 2x24gb: yes as nf4 on cuda:0-1, ")


def test_a_scheme_that_does_not_apply_is_told_once() -> None:
    table = told("--model", "deepseek-v3", "--model", "qwen3-0.6b", "--host", "8x141gb", "--host", "1x8gb", *ASKED)
    rows = [line.split()[:2] for line in table.splitlines() if line.startswith("  ")]
    schemes = [["qwen3-0.6b", scheme] for scheme in SCHEMES]
    assert rows == [["model", "as"], ["deepseek-v3", "fp8"], *schemes] * 2
    assert table.count("deepseek-v3 is quantised already (`fp8`): `int8` and `nf4` do not apply\n") == 1


def test_what_a_quantised_checkpoint_becomes() -> None:
    fits = told("--model", "gpt-oss-20b", "--host", "8x141gb", "--quantization", "nf4")
    assert fits.startswith("gpt-oss-20b on 8x141gb: yes, dequantised from mxfp4, on cuda:0, ")
    assert fits.endswith("; gpt-oss-20b is quantised already (`mxfp4`): `nf4` does not apply\n")
    refused = told("--model", "deepseek-v3", "--host", "1x24gb", *ASKED)
    assert refused.startswith("deepseek-v3 on 1x24gb: no; fp8: ")
    assert refused.count("TiB") == 1


def test_a_program_gets_every_verdict() -> None:
    models = ("--model", "deepseek-v3", "--model", "gpt2")
    found = json.loads(told(*models, "--host", "8x141gb", *ASKED, "--format", "json"))["fits"]
    assert [(one["model"], one["quantization"], one["stored"]) for one in found] == [
        *(("deepseek-v3", scheme, "fp8") for scheme in SCHEMES),
        *(("gpt2", scheme, None) for scheme in SCHEMES),
    ]
    first, *others = ({**one, "quantization": ""} for one in found[:3])
    assert all(one == first for one in others)


def test_a_report_has_one_row_of_a_quantised_model(tmp_path) -> None:
    file = tmp_path / "report.html"
    given = ("--models", "gpt2,gpt-oss-20b", "--hosts", "h100,1x8gb", "--quantizations", "none,nf4")
    assert invoke("report", "prefer-accelerator", *given, "-o", str(file)).status == 0
    data = Page(file.read_text("utf-8")).data
    cells = [tuple(data["texts"][cell[key]] for key in ("model", "scheme")) for cell in data["cells"]]
    assert cells == [
        (model, scheme)
        for model, scheme in (("gpt2", "none"), ("gpt2", "nf4"), ("gpt-oss-20b", "mxfp4"))
        for _ in range(2)
    ]
    facts = [{data["texts"][label]: data["texts"][value] for label, value in cell["facts"]} for cell in data["cells"]]
    assert facts[4]["quantised already"] == "mxfp4, dequantised here"
    assert "quantised already" not in facts[0]
