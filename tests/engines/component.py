"""Haystack's component of llama.cpp, with a llama.cpp that runs: its layers are on the GPU that a policy says.

    python -m tests.engines.component --binaries FOLDER

Two servers on this machine stand for GPUs, as in `llama_cpp`, whose binaries are used. Exit status 1 where the log of
the model names another device.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.engines import llama_cpp, models

ROWS = (("cuda:0", llama_cpp.PORTS[0]), ("cuda:1", llama_cpp.PORTS[1]), ("cpu", None))
"""What is preferred, and the port of the server that is to hold the layers."""


def ask(binaries: Path, model: Path, prefer: str) -> None:
    """Make the component, apply a policy to it, and run it; llama.cpp logs where its buffers are."""
    import ctypes

    import llama_cpp as library
    from haystack import Pipeline
    from haystack.dataclasses import ChatMessage
    from haystack_integrations.components.generators.llama_cpp import LlamaCppChatGenerator

    from devpolicy import Policy
    from devpolicy.haystack import apply

    library.llama_backend_init()
    remote, core = (ctypes.CDLL(str(binaries / name)) for name in ("libggml-rpc.so", "libggml.so"))
    remote.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    core.ggml_backend_register.argtypes = [ctypes.c_void_p]
    for port in llama_cpp.PORTS[:2]:
        core.ggml_backend_register(remote.ggml_backend_rpc_add_server(f"127.0.0.1:{port}".encode()))
    component = LlamaCppChatGenerator(
        model=str(model), n_ctx=128, model_kwargs={"verbose": True}, generation_kwargs={"max_tokens": 2}
    )
    pipeline = Pipeline()
    pipeline.add_component("generator", component)
    apply(pipeline, Policy.parse(f'prefer = "{prefer}"'), "2x24gb")
    pipeline.run({"generator": {"messages": [ChatMessage.from_user("hi")]}})


def holders(log: str) -> set[str]:
    """Return the servers that hold a part of the model, by the log."""
    return set(re.findall(r"RPC\d+\[127\.0\.0\.1:(\d+)\] model buffer", log))


def main() -> int:
    """Try each row in a process of its own, since llama.cpp keeps its list of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", type=Path, required=True, help="a folder with llama.cpp's binaries")
    parser.add_argument("--ask", nargs=2, metavar=("MODEL", "DEVICE"), help="run this one, in this process")
    given = parser.parse_args()
    if given.ask:
        ask(given.binaries, Path(given.ask[0]), given.ask[1])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        binaries = given.binaries
        model = models.write(Path(folder) / "dense.gguf")
        wrong = 0
        with llama_cpp.servers(binaries):
            for prefer, port in ROWS:
                command = [sys.executable, "-m", "tests.engines.component", "--binaries", str(binaries)]
                run = subprocess.run(
                    [*command, "--ask", str(model), prefer],
                    env={**os.environ, "LLAMA_CPP_LIB_PATH": str(binaries)},
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                found, expected = holders(run.stderr), set() if port is None else {str(port)}
                right = run.returncode == 0 and found == expected
                wrong += not right
                print(f"{'ok' if right else 'WRONG':6} {prefer:8} {', '.join(found) or 'the CPU'}")
                if not right:
                    print(run.stderr[-2000:])
        return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
