"""Haystack's components, real ones, with tiny models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.targets.haystack.models import whisper_file

pytest.importorskip("haystack")

STUBS = Path(__file__).parent / "stubs"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny checkpoints."""
    from tests.targets.haystack.models import funasr_model, make, onnx_files, sentences, spacy_entities

    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    make(folder)
    # Each is of a library that an environment may not have, where nothing asks for it.
    for library, write in (
        ("sentence_transformers", sentences),
        ("spacy", spacy_entities),
        ("onnx", onnx_files),
        ("funasr", funasr_model),
    ):
        if find_spec(library):
            write(folder)
    return folder


@pytest.fixture
def no_downloads(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library would ask a server for is on this machine."""
    if find_spec("whisper") and hasattr(whisper := import_module("whisper"), "_MODELS"):
        monkeypatch.setitem(whisper._MODELS, "tiny", whisper_file(tmp_path))
        monkeypatch.setattr(whisper, "load_model", partial(whisper.load_model, download_root=str(tmp_path / "cache")))
    if find_spec("funasr"):  # it asks whether there is a newer one
        monkeypatch.setattr("funasr.utils.version_checker.check_for_update", lambda **_: None)
    with suppress(ImportError):
        optimum = import_module("haystack_integrations.components.embedders.optimum._backend")
        monkeypatch.setattr(optimum, "check_valid_model", lambda *_: None)


@pytest.fixture(scope="module", autouse=True)
def stubs() -> Iterator[None]:
    """Libraries that are not installed, since they are compiled or large, have stand-ins for these modules alone."""
    sys.path.append(str(STUBS))
    yield
    sys.path.remove(str(STUBS))
    for name, module in sys.modules.copy().items():
        if str(getattr(module, "__file__", None)).startswith(str(STUBS)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_models_of_other_tests() -> Iterator[None]:
    """Haystack keeps embedders by their arguments, and so those of a simulated host that was left."""
    yield
    name = "haystack_integrations.components.embedders.sentence_transformers.embedding_backend"
    for module, factory in (
        ("backend", "_SentenceTransformersEmbeddingBackendFactory"),
        ("sparse_backend", "_SentenceTransformersSparseEmbeddingBackendFactory"),
    ):
        if f"{name}.{module}" in sys.modules:
            getattr(sys.modules[f"{name}.{module}"], factory)._instances.clear()
