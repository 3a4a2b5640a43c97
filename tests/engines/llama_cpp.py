"""llama.cpp itself, beside our plans: what its log says each device holds is what the ledger says.

python -m tests.engines.llama_cpp [--binaries FOLDER] [--keep FOLDER]

Builds llama.cpp from the source package of llama-cpp-python, unless `--binaries` names a folder with `BINARIES`. Three
servers on this machine stand for GPUs. Each row of `ROWS` is a policy and three cards: planned, loaded with the plan's
flags, one token written. Weights and KV cache of each device must be equal to the digit that the log prints, and the
compute buffers not more than planned. Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.targets.llama_cpp import to_llama_cpp
from tests.engines import architectures, buffers, fit, measured, models, recurrent

VERSION = "0.3.36"
"""Of llama-cpp-python, whose source package holds the llama.cpp that is built."""
PORTS = (51001, 51002, 51003)
BINARIES = ("llama-completion", "llama-fit-params", "ggml-rpc-server")

_OPTIONS = (
    *("-DGGML_RPC=ON", "-DGGML_OPENMP=OFF", "-DGGML_LLAMAFILE=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TOOLS=ON"),
    *("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DBUILD_SHARED_LIBS=ON"),
)

EXACT = 'prefer = "cuda"\nworkload.context = 512\nmemory.cuda = { headroom = 0, basis = "total" }\n'
NO_RESERVE = EXACT.replace('"total"', '"total", reserve = { activations = 0 }')
KIB = 1 << 10

# name, model, cards in KiB, what is added to the policy above. Without a reserve cards can be as small as the model.
ROWS = (
    ("one card", "dense", (90_000, 90_000, 90_000), ""),
    ("even", "dense", (40_000, 40_000, 40_000), 'split = "balanced"'),
    ("uneven", "dense", (30_000, 45_000, 60_000), 'split = "balanced"'),
    ("fastest", "dense", (40_000, 40_000, 40_000), 'split = "fastest"'),
    ("a later card first", "dense", (1_300, 6_000, 1_000), "-"),
    ("first layers on the CPU", "dense", (1_300, 1_100, 900), "-overflow = 'cpu'"),
    ("most on the CPU", "dense", (1_000, 64, 64), "-overflow = 'cpu'"),
    ("layers by a rule", "dense", (40_000,) * 3, "offload.'blk.{0..3}' = 'cpu'"),
    (
        "attention on one, the rest on another",
        "dense",
        (40_000,) * 3,
        "split = 'balanced'\n[[rule]]\nmatch = 'blk.*.ffn'\nprefer = 'cuda:2'",
    ),
    (
        "one matrix",
        "dense",
        (40_000,) * 3,
        "split = 'balanced'\n[[rule]]\nmatch = 'blk.*.ffn.ffn_up'\nprefer = 'cuda:1'",
    ),
    (
        "one layer's norm",
        "dense",
        (40_000,) * 3,
        "split = 'balanced'\n[[rule]]\nmatch = 'blk.5.ffn'\nprefer = 'cuda:1'",
    ),
    ("feed forward on the CPU", "dense", (40_000,) * 3, "offload.'blk.*.ffn' = 'cpu'"),
    ("the head on the CPU", "dense", (40_000,) * 3, "offload.output = 'cpu'"),
    ("the head alone", "dense", (40_000,) * 3, "[[rule]]\nmatch = ['output', 'output_norm']\nprefer = 'cuda:2'"),
    ("the embedding on a card", "dense", (40_000,) * 3, "[[rule]]\nmatch = 'token_embd'\nprefer = 'cuda:1'"),
    ("a cache in bfloat16", "dense", (40_000,) * 3, "workload.kv_dtype = 'bfloat16'"),
    ("a cache in float32", "dense", (60_000,) * 3, "workload.kv_dtype = 'float32'"),
    ("the cache in RAM", "dense", (40_000,) * 3, "split = 'balanced'\nworkload.kv_offload = 'cpu'"),
    ("the cache and experts in RAM", "mixture", (6_144, 2_500, 900), "-overflow = 'cpu'\nworkload.kv_offload = 'cpu'"),
    ("two sequences", "dense", (60_000,) * 3, "workload.batch = 2"),
    ("an odd context", "dense", (60_000,) * 3, "workload.context = 700"),
    ("a tied head", "tied", (40_000,) * 3, 'split = "balanced"'),
    ("a tied head and the CPU", "tied", (1_300, 1_100, 900), "-overflow = 'cpu'"),
    ("a tied head without copies", "tied", (9_500, 9_500, 64), ""),
    ("experts that fit", "mixture", (40_000,) * 3, 'split = "balanced"'),
    ("experts leave first", "mixture", (6_144, 2_500, 2_048), "-overflow = 'cpu'"),
    ("all experts leave", "mixture", (2_000, 900, 900), "-overflow = 'cpu'"),
    ("experts by a rule", "mixture", (40_000,) * 3, "offload.'blk.{2..5}.ffn.exps' = 'cpu'"),
    (
        "one matrix of the experts",
        "mixture",
        (40_000,) * 3,
        "split = 'balanced'\noffload.'blk.*.ffn.exps.ffn_up_exps' = 'cpu'",
    ),
    (
        "two matrices of some layers elsewhere",
        "mixture",
        (40_000,) * 3,
        "split = 'balanced'\n[[rule]]\nprefer = 'cuda:2'\n"
        "match = ['blk.{2..4}.ffn.exps.ffn_up_exps', 'blk.{2..4}.ffn.exps.ffn_gate_exps']",
    ),
    ("experts and layers", "mixture", (1_200, 64, 64), "-overflow = 'cpu'"),
    ("the CPU alone", "dense", (40_000,) * 3, "prefer = 'cpu'"),
)
MODELS = {"dense": {}, "tied": {"head": False}, "mixture": {"experts": 4}}


def built(folder: Path) -> Path:
    """Build llama.cpp in a folder, and return that of its binaries."""
    print(f"building llama.cpp of llama-cpp-python {VERSION} in {folder}: some ten minutes on two cores", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*pip, "-d", str(folder), f"llama-cpp-python=={VERSION}"], check=True)
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (source,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    build = folder / "build"
    subprocess.run(
        ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *_OPTIONS], check=True, stdout=sys.stderr
    )
    subprocess.run(["ninja", "-C", str(build), *BINARIES], check=True, stdout=sys.stderr)
    return build / "bin"


@contextmanager
def servers(binaries: Path) -> Iterator[None]:
    """Three devices: servers that hold what they are sent in memory."""
    command = [str(binaries / "ggml-rpc-server"), "-H", "127.0.0.1", "-t", "1", "-p"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment(binaries)}
    running = [subprocess.Popen([*command, str(port)], **quiet) for port in PORTS]
    time.sleep(1.5)
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def environment(binaries: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(binaries)}


def planned(text: str, cards: tuple[int, ...], tree: ModelTree) -> Plan:
    host = Host([Accelerator("cuda", memory=f"{size} KiB") for size in cards], memory="16 GiB")
    base, added = (NO_RESERVE, text[1:]) if text.startswith("-") else (EXACT, text)
    keys = {line.partition("=")[0].strip() for line in added.partition("[[")[0].splitlines()}
    kept = [line for line in base.splitlines() if line.partition("=")[0].strip() not in keys]
    return plan(Policy.parse("\n".join([*kept, added])), tree, host)


def flags_of(made: Plan) -> list[str]:
    """Return a plan's flags with the names that llama.cpp has for the servers and for their buffers."""
    names = {f"cuda:{number}": f"RPC{number}" for number in range(len(PORTS))}
    flags = []
    for flag in to_llama_cpp(made, names).to_flags():
        pattern, found, place = flag.rpartition("=")
        server = re.fullmatch(r"RPC(\d)", place)
        # The buffer of a server is called by its address.
        flags.append(f"{pattern}=RPC0[127.0.0.1:{PORTS[int(server[1])]}]" if found and server else flag)
    return flags


def log_of(binaries: Path, file: Path, flags: list[str]) -> str:
    """Load the model with flags, write one token, and return what llama.cpp says."""
    ports = ",".join(f"127.0.0.1:{port}" for port in PORTS)
    command = [str(binaries / "llama-completion"), "--rpc", ports, "-m", str(file), *flags]
    command += ["-p", "<0x41>", "-n", "1", "-t", "1", "--no-warmup", "-no-cnv", "-v", "-lm", "none"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment(binaries), timeout=180, check=False
    )
    if done.returncode:
        raise SystemExit(f"llama.cpp ended with {done.returncode}:\n{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


_LINE = re.compile(r"(?:(CPU|RPC0\[127\.0\.0\.1:(\d+)\])\S*) +(model|KV|RS|compute) buffer size = +([\d.]+) MiB")


def held(log: str) -> dict[str, dict[str, float]]:
    """Return the MiB of each device by what they are."""
    found: dict[str, dict[str, float]] = {}
    for place, port, what, size in _LINE.findall(log):
        device = f"cuda:{PORTS.index(int(port))}" if port else place.lower()
        sizes = found.setdefault(device, {})
        term = "KV" if what == "RS" else what  # the states of recurrent layers
        sizes[term] = sizes.get(term, 0.0) + float(size)
    return found


def compared(made: Plan, log: str) -> list[str]:
    """Return where the log and the ledger differ."""
    told, wrong = held(log), []
    for device in sorted({*made.ledger, *told}):
        ours, theirs = made.ledger.get(device), told.get(device, {})
        for what, size in (("model", ours.weights if ours else 0), ("KV", ours.kv_cache if ours else 0)):
            if f"{size / KIB / KIB:.2f}" != f"{theirs.get(what, 0.0):.2f}":
                wrong.append(f"{device} {what}: planned {size / KIB / KIB:.2f}, held {theirs.get(what, 0.0):.2f} MiB")
        activations = ours.activations if ours else 0
        if activations and theirs.get("compute", 0.0) > activations / KIB / KIB:
            wrong.append(f"{device} compute: planned {activations / KIB / KIB:.2f}, held {theirs['compute']:.2f} MiB")
    return wrong


def main() -> int:
    """Run every row, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, help="a folder with llama.cpp's binaries")
    parser.add_argument("--write", action="store_true", help="write the table beside `--fit` into the documentation")
    parser.add_argument("--keep", type=Path, help="build here, or take what was built here before")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        there = folder / "build" / "bin"
        binaries = options.binaries or (there if (there / BINARIES[0]).exists() else built(folder))
        files = {name: models.write(Path(temporary) / f"{name}.gguf", **given) for name, given in MODELS.items()}
        trees = {name: ModelTree.load(file) for name, file in files.items()}
        with servers(binaries):
            for name, model, cards, text in ROWS:
                made = planned(text, cards, trees[model])
                wrong = compared(made, log_of(binaries, files[model], flags_of(made)))
                if wrong:  # a line of the log may be torn by that of another thread, and not twice
                    wrong = compared(made, log_of(binaries, files[model], flags_of(made)))
                failed += bool(wrong)
                where = ", ".join(f"{device} {one.weights / KIB / KIB:.2f}" for device, one in made.ledger.items())
                print(f"{'DIFFERS' if wrong else 'equal  '}  {name:<40} {where}", *wrong, sep="\n         ", flush=True)
            print(f"{len(ROWS) - failed} of {len(ROWS)} policies: each device holds what was planned")
            failed += measured.compare(binaries, Path(temporary), files["dense"])
            failed += architectures.compare(binaries, Path(temporary))
            failed += architectures.compare(binaries, Path(temporary), recurrent.FILES, recurrent.CARDS)
            failed += buffers.compare(binaries, Path(temporary))
            failed += fit.compare(binaries, Path(temporary), write=options.write)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
