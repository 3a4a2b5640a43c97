"""The pipeline, as it is built in code. `python pipeline.py` saves it as `rag.yaml`."""

from pathlib import Path

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder
from haystack_integrations.components.generators.transformers import TransformersChatGenerator
from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

from keywords import Keywords

MODELS = Path("models")
PROMPT = "{% for document in documents %}{{ document.content }} {% endfor %}{{ question }}"


def build() -> Pipeline:
    """Return the pipeline; nothing of it is loaded yet."""
    pipeline = Pipeline()
    pipeline.add_component("keywords", Keywords())
    pipeline.add_component(
        "embedder", SentenceTransformersTextEmbedder(model=str(MODELS / "embedder"), progress_bar=False)
    )
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(index="facts"), top_k=4))
    pipeline.add_component("ranker", SentenceTransformersSimilarityRanker(model=str(MODELS / "ranker"), top_k=2))
    pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(PROMPT)], required_variables="*"))
    llm = TransformersChatGenerator(
        model=str(MODELS / "llm"), task="text-generation", generation_kwargs={"max_new_tokens": 8}
    )
    pipeline.add_component("llm", llm)
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "llm.messages")
    return pipeline


if __name__ == "__main__":
    Path("rag.yaml").write_text(build().dumps(), encoding="utf-8")
