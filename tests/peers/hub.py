"""A cache of the model hub, with small models under the names that suites ask for.

No weights are downloaded: each is made from its configuration's class.
"""

from __future__ import annotations

from pathlib import Path

REVISION = "0" * 40


def write_hub(home: Path) -> None:
    """Write the cache into `home`, as `HF_HOME` names it."""
    import torch
    from transformers import BloomConfig, BloomModel

    cached = home / "hub" / "models--bigscience--bloom-560m"
    snapshot = cached / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(REVISION, encoding="utf-8")
    model = BloomModel(BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4))
    model.config.save_pretrained(snapshot)
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
