"""The limits of what is read of a model, in one place. `docs/limits.md` shows them.

Owns numbers only. Each is far above what any published model has, and low enough that reading up to it takes seconds
and less than a gigabyte. Every error of a limit names it.
"""

from __future__ import annotations

LARGEST_CONFIG = 8 << 20
"""Bytes of a `config.json`. The largest ones carry tens of thousands of labels, and have one megabyte."""

LARGEST_INDEX = 64 << 20
"""Bytes of an index of shards. One of 200,000 tensors has 20 megabytes."""

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""

LARGEST_TRAFFIC = 256 << 20
"""Bytes that are asked of a hub for one model. The headers of the largest have 20 megabytes."""

MOST_METADATA = 10_000
"""Keys of the metadata of a GGUF file. Published ones have fewer than a hundred."""

MOST_STRINGS = 4_000_000
"""Texts in the lists of a GGUF file: tokens and merges of a vocabulary. The largest has fewer than a million."""

LONGEST_TEXT = 1 << 12
"""Bytes of a text in the metadata of a GGUF file that is kept. Longer ones, as templates of chats are, are skipped."""

MOST_KEPT = 10_000
"""Numbers of a list in the metadata of a GGUF file that are kept: one for each layer. Scores of tokens are skipped."""

LARGEST_REFERENCE = 1 << 10
"""Bytes of a file that names a revision in the Hugging Face cache."""

DEEPEST_JSON = 64
"""Levels of tables and lists in a JSON file or a configuration."""

MOST_TENSORS = 300_000
"""Tensors that a checkpoint names."""

MOST_FIELDS = 5_000_000
"""Fields of an ONNX file that are looked at: nodes, attributes, tensors. The largest published graphs have a tenth."""

LONGEST_NAME = 1_000
"""Characters of the name of a tensor, and of the name in a model file."""

MOST_SHARDS = 10_000
"""Files that hold the weights of one checkpoint."""

LARGEST_TREE = 250_000
"""Modules of a model, shared ones at each of their paths."""

LARGEST_TEXT = 200 * LARGEST_TREE
"""Characters of all module paths together: a long path times a wide range is large too."""

DEEPEST_PATH = 100
"""Parts of the name of a tensor."""

MOST_LAYERS = 10_000
"""Layers, blocks, heads: each number in a configuration that says how many of something a model has."""

MOST_ENTRIES = 2**20
"""Experts, labels or classes in a configuration, and layers that a list of it adds up to.

Some models keep tens of thousands of experts as the rows of a table.
"""

LARGEST_DIMENSION = 2**31 - 1
"""The size of a dimension in a configuration: hidden sizes, vocabularies."""

LARGEST_CONTEXT = 2**27
"""Tokens or positions in a configuration."""

LONGEST_BUILD = 60
"""Seconds of computing for which a model is built and read. One of 100,000 modules takes ten."""

MOST_BUILD_MEMORY = 4 << 30
"""Bytes of memory that this may take. A model without weights takes some MiB, and Transformers itself half a GiB."""

MOST_COMPUTED = 2**24
"""Elements of a table of positions that some models compute one by one in Python, while they are built."""

LARGEST_IMAGE = 1 << 14
"""Pixels of a side of an image in a configuration. Some models compute a table for each patch."""

MOST_ELEMENTS = 2**63 - 1
"""Elements of a tensor, and the largest number that a configuration may hold."""

MOST_FILE_VALUES = 100_000
"""Keys, parts of keys and entries of arrays of a model file. The largest of the catalogue has some 9,000."""

MOST_FINDINGS = 100
"""Findings of one model file. One with more mistakes was not meant to be a model file, and nobody reads on."""
