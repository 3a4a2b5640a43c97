"""vLLM's and SGLang's own argument parsers, from their packages: they accept every form that we print.

python -m tests.engines.parsers [--keep FOLDER]

Downloads vLLM's source package and SGLang's wheel, unpacks them, and imports each parser in a process of its own, with
stand-ins for what it imports and does not need. Of exllamav3, whose kernels are built when it is imported, the
signatures are read. What our rows of quantised checkpoints say is compared with the sources too. Exit status 1 where a
form is not accepted or is read as another one, or a row is not as the source has it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from devpolicy import Accelerator, Host, Policy, plan
from devpolicy.errors import Unsatisfiable
from devpolicy.targets import exllamav3, sglang, stages, vllm
from tests.engines.schemes import ROWS, check_schemes
from tests.engines.states import check_counts, check_states

VERSIONS = {"vllm": "0.33.0", "sglang": "0.5.23", "exllamav3": "1.6.5"}
CHUNK = 2048
"""Tokens that exllamav3 takes at once by default: no more than are counted."""
FORMS = {"vllm": vllm, "sglang": sglang}
_MODELS = ("llama-3.2-1b", "llama-3.1-8b", "mixtral-8x7b", "llama-3.1-70b", "deepseek-v3")
_CARDS = ((24,), (80,), (24, 24), (80, 24), (80,) * 4, (80,) * 8, (141,) * 8, (8,), (24, 24, 12, 8))
_POLICIES = (
    "",
    'split = "balanced"',
    'split = "tensor"',
    "split = { tensor = 2 }",
    'overflow = "cpu"',
    'workload = { context = 8192, batch = 4, dtype = "float16" }',
    "workload = { context = 32768, batch = 16 }",
    'workload.kv_dtype = "float8_e4m3fn"',
    'workload.kv_dtype = "float8_e5m2"',
    'workload.kv_dtype = "bfloat16"\nworkload.dtype = "float16"',
    'workload.dtype = "float32"',
)

_STUBS = """
import importlib.abc, importlib.machinery, importlib.util, sys, types

class Anything:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()
    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else Anything()
    def __iter__(self):
        return iter(())
    def __or__(self, other):
        return self
    def __ror__(self, other):
        return other
    def __mro_entries__(self, bases):
        return ()
    def __getitem__(self, key):
        return Anything()
    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema
        return core_schema.any_schema()

class Stub(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if top in STUBS else None
    def create_module(self, spec):
        return Stub(spec.name)
    def exec_module(self, module):
        pass

STUBS = {name for name in NAMES if importlib.util.find_spec(name) is None}
sys.meta_path.append(Finder())
"""
_READ = """
import argparse, json
for arguments in json.load(sys.stdin):
    print(json.dumps({key: value for key, value in vars(parser.parse_args(arguments)).items() if key in KEYS}))
"""
_CHILDREN = {
    "vllm": """
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
KEYS = ("device_ids", "tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "cpu_offload_gb")
""",
    "sglang": """
import argparse
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
KEYS = ("base_gpu_id", "gpu_id_step", "tp_size", "pp_size", "mem_fraction_static", "cpu_offload_gb",
        "kt_num_gpu_experts")
""",
}
_NAMES = {
    "vllm": "cpuinfo prometheus_fastapi_instrumentator lark cbor2 watchfiles model_hosting_container_standards ijson "
    "depyf python_json_logger lm_format_enforcer zmq orjson msgspec fastapi starlette uvicorn openai xgrammar outlines "
    "partial_json_parser modelscope pynvml prometheus_client setproctitle openai_harmony llguidance interegular "
    "blobfile IPython uvloop pybase64 cachetools aiohttp regex cloudpickle",
    "sglang": "triton sgl_kernel zmq orjson IPython uvloop pybase64 fastapi starlette uvicorn torchao flashinfer "
    "openai xgrammar outlines partial_json_parser modelscope pynvml prometheus_client setproctitle compressed_tensors "
    "torchvision decord soundfile ninja aiohttp cuda decorator llguidance timm torchaudio datasets openai_harmony "
    "interegular blobfile scipy tiktoken einops gguf py_spy cutlass av mistral_common cachetools dill",
}


def source(engine: str, folder: Path) -> Path:
    """Return the folder of an engine's package, which is downloaded where it is not there."""
    place = folder / engine
    if not place.exists():
        print(f"downloading {engine} {VERSIONS[engine]}", flush=True)
        whole = ["--no-binary", "vllm", "--no-build-isolation"] if engine == "vllm" else []
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *whole, "-d", str(folder)]
        # Its metadata is made by a build, which is told that there is nothing to compile.
        environment = {**os.environ, "VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": VERSIONS["vllm"]}
        subprocess.run([*pip, f"{engine}=={VERSIONS[engine]}"], check=True, env=environment)
        (archive,) = (file for file in folder.glob(f"{engine}-*") if file.is_file())
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(place)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(place, filter="data")
    inside = place / f"{engine}-{VERSIONS[engine]}"
    return inside if inside.exists() else place


def forms(engine: str) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Yield what is printed for many worlds, and what it says."""
    targets = ("sglang", "ktransformers") if engine == "sglang" else (engine,)
    for target, model in product(targets, _MODELS):
        for sizes in _CARDS:
            host = Host([Accelerator("cuda", memory=f"{size} GiB") for size in sizes], memory="2 TiB")
            for text in _POLICIES:
                try:
                    made = plan(Policy.parse(f'prefer = "cuda"\n{text}'), model, host, target=target)
                    arguments, told = FORMS[engine](made, host)["arguments"], stages(made, host)
                except Unsatisfiable:
                    continue
                experts = told.gpu_experts
                means: dict[str, object] = {"cpu_offload_gb": told.kept >> 30 if experts is None else 0}
                if engine == "vllm":
                    means |= {"tensor_parallel_size": told.tensor, "pipeline_parallel_size": len(told.groups)}
                    means |= {"gpu_memory_utilization": told.fraction, "device_ids": [one.id for one in told.devices]}
                else:
                    means |= {"tp_size": told.tensor, "pp_size": len(told.groups)}
                    means |= {"mem_fraction_static": told.fraction, "base_gpu_id": told.devices[0].id}
                    means |= {"kt_num_gpu_experts": experts}
                yield f"{target}: {model} on {sizes}: {text}", list(arguments), means


def check(engine: str, folder: Path) -> int:
    """Return how many forms an engine's parser does not accept, or reads otherwise."""
    made = list(forms(engine))
    extra = ["--model-path", "x"] if engine == "sglang" else []
    names = f"NAMES = {_NAMES[engine].split()!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", names + _STUBS + _CHILDREN[engine] + _READ],
        input=json.dumps([[*extra, *arguments] for _, arguments, _ in made]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source(engine, folder)), "VLLM_LOGGING_LEVEL": "ERROR"},
        check=False,
    )
    read = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    wrong = [
        f"{where}: {' '.join(arguments)} is read as {found}"
        for (where, arguments, means), found in zip(made, read, strict=False)
        if any(found[key] != value for key, value in means.items())
    ]
    wrong += [f"not accepted: {done.stderr[-2000:]}"] if len(read) < len(made) else []
    print(f"{engine} {VERSIONS[engine]}: {len(read)} of {len(made)} forms accepted", *wrong[:8], sep="\n  ", flush=True)
    return len(wrong)


def check_signatures(folder: Path) -> int:
    """Return how many of the arguments that we print exllamav3's functions do not have, by their source."""
    host = Host([Accelerator("cuda", memory="24 GiB")] * 2, memory="64 GiB")
    printed = exllamav3(plan(Policy.parse('prefer = "cuda"'), "llama-3.1-8b", host, target="exllamav3"), host)
    inside, wrong = source("exllamav3", folder) / "exllamav3", list[str]()
    for part, file, cls, function in (
        ("cache", "cache/cache.py", "Cache", "__init__"),
        ("load", "model/model.py", "Model", "load_gen"),
    ):
        tree = ast.parse((inside / file).read_text(encoding="utf-8"))
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
        (found,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
        known = {one.arg for one in (*found.args.args, *found.args.kwonlyargs)}
        wrong += [f"{cls}.{function} has no `{name}`" for name in printed[part] if name not in known]
        if part == "load":
            step = found.args.defaults[
                [one.arg for one in found.args.args].index("max_chunk_size") - len(found.args.args)
            ]
            wrong += (
                []
                if ast.literal_eval(step) == CHUNK
                else [f"{cls}.{function} takes {ast.unparse(step)} tokens at once"]
            )
    print(f"exllamav3 {VERSIONS['exllamav3']}: signatures read", *wrong, sep="\n  ", flush=True)
    return len(wrong)


def check_rows(engine: str, folder: Path) -> int:
    """Return how many facts of our rows of quantised checkpoints an engine's source has otherwise."""
    inside = source(engine, folder)
    wrong = [*check_schemes(engine, inside), *check_counts(engine, inside)]
    if engine == "vllm":
        wrong += check_states(inside, f"NAMES = {_NAMES[engine].split()!r}\nimport json\n{_STUBS}")
    print(f"{engine} {VERSIONS[engine]}: {len(ROWS[engine])} rows of schemes compared", *wrong, sep="\n  ", flush=True)
    return len(wrong)


def main() -> int:
    """Check all engines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="download here, or take what was downloaded here before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wrong = sum(check_rows(engine, folder) + check(engine, folder) for engine in FORMS)
        return 1 if wrong + check_signatures(folder) else 0


if __name__ == "__main__":
    raise SystemExit(main())
