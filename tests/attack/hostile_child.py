"""Build model types from hostile configurations, and write down what the process tried to do meanwhile.

Run as `python hostile_child.py TYPE...`, with the folder `packages` on PYTHONPATH. What was tried is
in ATTACK_LOG, which is not there otherwise, and what came of each type in ATTACK_RESULTS.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import transformers
from transformers.models.auto import modeling_auto

from devpolicy._core.model.config import build
from devpolicy.errors import DevPolicyError

HERE = Path(__file__).parent
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "builtins.input", "os.exec", "os.system")
NINJA = ["ninja", "--version"]  # Transformers asks whether it could compile, whatever the configuration is
AUTO_CLASSES = [name for name in dir(modeling_auto) if name.startswith("Auto")] + ["AutoConfig", "AutoTokenizer"]
AUTO_MAP = dict.fromkeys(AUTO_CLASSES, "evil.Evil") | {"AutoBackbone": "org/evil--evil.Evil"}
HOSTILE = {
    "auto_map": AUTO_MAP,
    "also_auto_map": AUTO_MAP,
    "attribute_map": {"auto_map": "also_auto_map"},
    "_name_or_path": str(HERE / "repository"),
    "name_or_path": str(HERE / "repository"),
    "trust_remote_code": True,
    "attn_implementation": "kernels-community/evil@abc123:fn",
    "_attn_implementation": "flash_attention_2",
    "_attn_implementation_internal": "flash_attention_3",
    "experts_implementation": "sonicmoe",
    "_experts_implementation": "deepgemm",
    "use_kernels": True,
    "use_pretrained_backbone": True,
    "checkpoint_path": str(HERE / "repository" / "evil.py"),
    "quantization_config": {"quant_method": "evil", "modules": "evil.Evil"},
}
CLASSES = {
    model_type: names
    for mapping, table in vars(modeling_auto).items()
    if mapping.endswith("_MAPPING_NAMES") and mapping.startswith("MODEL_")
    for model_type, names in table.items()
    if model_type not in modeling_auto.MODEL_MAPPING_NAMES
}
BACKBONES = [{}, {"backbone": "org/evil", "use_timm_backbone": False}, {"backbone": "evil", "use_timm_backbone": False}]


def hostile(value, extra):
    """Return a table with the hostile keys at each level that is a configuration."""
    if not isinstance(value, dict):
        return value
    inner = {key: hostile(item, extra) for key, item in value.items()}
    if extra:
        inner.pop("backbone_config", None)
    return inner | HOSTILE | extra if "model_type" in value or "hidden_size" in value else inner


def part_class(model_type):
    """Return the class of a type that is a part of others, which no auto class chooses."""
    if model_type in modeling_auto.MODEL_MAPPING_NAMES:
        return None
    config_class = transformers.CONFIG_MAPPING[model_type]
    try:
        module = importlib.import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    except ImportError:
        return None
    own = [name for name, found in vars(module).items() if getattr(found, "config_class", None) is config_class]
    return next((name for name in own if hasattr(transformers, name) and not name.endswith("PreTrainedModel")), None)


def plain(model_type):
    """Return the default configuration of a model type as a `config.json` holds it, with a class where it needs one."""
    named = CLASSES.get(model_type) or part_class(model_type)
    own = {"model_type": model_type} | ({"architectures": [named]} if isinstance(named, str) else {})
    try:
        table = transformers.CONFIG_MAPPING[model_type]().to_dict()
        return json.loads(json.dumps(table, default=str)) | own
    except Exception:  # noqa: BLE001 - some have no default, each says so in its own way
        return own


def attempt(table):
    try:
        return type(build(table)).__name__
    except DevPolicyError as refused:
        return f"refused: {str(refused)[:200]}"


def main():
    log, types = Path(os.environ["ATTACK_LOG"]), sys.argv[1:]
    results = {}

    def watch(event, arguments):
        if event in FORBIDDEN or (event == "subprocess.Popen" and arguments[1] != NINJA):
            with log.open("a") as file:
                print(event, str(arguments)[:200], file=file)

    sys.addaudithook(watch)
    for model_type in types:
        table = plain(model_type)
        results[model_type] = [attempt(table), *(attempt(hostile(table, extra)) for extra in BACKBONES)]
    Path(os.environ["ATTACK_RESULTS"]).write_text(json.dumps(results))


main()
