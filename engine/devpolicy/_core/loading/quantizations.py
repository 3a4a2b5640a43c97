"""The words of `[loading] quantization`.

Owns the words alone: what a scheme takes, and which consumer loads it on which device, is not known here.
"""

NONE = "none"
"""The model is loaded in its dtype."""

QUANTIZATIONS = (NONE, "int8", "nf4", "fp4", "fp8", "mxfp4", "nvfp4", "awq", "gptq", "hqq", "int4")
"""What a policy may ask for."""
