"""Haystack's components, real ones, with tiny models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("haystack")

STUBS = Path(__file__).parent / "stubs"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny checkpoints."""
    from tests.targets.haystack.models import make, spacy_entities

    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("spacy")
    folder = tmp_path_factory.mktemp("models")
    make(folder)
    spacy_entities(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def stubs() -> Iterator[None]:
    """Libraries that would download what they load stand aside, for these modules alone."""
    sys.path.insert(0, str(STUBS))
    yield
    sys.path.remove(str(STUBS))
    for name, module in list(sys.modules.items()):
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
