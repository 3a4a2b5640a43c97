"""Answer a question: the saved pipeline, on the devices that the policy gives it here."""

import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.core.serialization import DeserializationCallbacks
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

from devpolicy import use_policy
from devpolicy.haystack import decide

POLICY = "policy.toml"
TRUSTED = ["haystack*", "haystack_integrations*", "keywords"]
FACTS = ["The warehouse is in Berlin.", "The office is in Munich.", "The shop opens at nine.", "We sell bicycles."]


def load() -> Pipeline:
    """Return the saved pipeline with this machine's devices, whatever was saved. Call it in a `use_policy` block."""
    callbacks = DeserializationCallbacks(component_pre_init=decide(POLICY))
    text = Path("rag.yaml").read_text(encoding="utf-8")
    return Pipeline.loads(text, callbacks=callbacks, allowed_modules=TRUSTED)


def fill(pipeline: Pipeline) -> None:
    """Embed the facts. The embedder is made without a device, so it asks the policy in use."""
    embedder = SentenceTransformersDocumentEmbedder(model="models/embedder", progress_bar=False)
    documents = embedder.run(documents=[Document(content=fact) for fact in FACTS])["documents"]
    pipeline.get_component("retriever").document_store.write_documents(documents)


def answer(pipeline: Pipeline, question: str) -> str:
    """Return what the generator says."""
    asked = {"text": question}
    result = pipeline.run(
        {"keywords": asked, "embedder": asked, "ranker": {"query": question}, "prompt": {"question": question}}
    )
    return result["llm"]["replies"][0].text


if __name__ == "__main__":
    with use_policy(POLICY):
        rag = load()
        fill(rag)
    print(answer(rag, " ".join(sys.argv[1:]) or "Where is the warehouse?"))
