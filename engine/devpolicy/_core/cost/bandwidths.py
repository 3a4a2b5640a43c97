"""The memory bandwidth of accelerators, by the names that their drivers report.

Owns the figures and where each comes from. A row holds for a device whose name has all words of the row's name; of
several rows the one with most words does. Cards for laptops have rows of their own: they are other chips, on narrower
or slower memory, under the names of the cards for desktops.
"""

from __future__ import annotations

_DATA_SHEET = "NVIDIA, data sheet of the product"
_GEFORCE = "NVIDIA, comparison of GeForce cards: width of the interface times data rate"
_LAPTOP = "NVIDIA, comparison of GeForce laptop GPUs: width of the interface times data rate"
_RTX_LAPTOP = "NVIDIA, line card of professional laptop GPUs: width of the interface times data rate"
_AMD, _INTEL = "AMD, data sheet of the product", "Intel, specifications of the product"
_APPLE = "Apple, technical specifications of the Mac"

BANDWIDTHS: tuple[tuple[str, int, str], ...] = (
    # Data centres.
    ("B300", 8000, _DATA_SHEET), ("B200", 8000, _DATA_SHEET), ("GB10", 273, _DATA_SHEET),
    ("H200", 4800, _DATA_SHEET), ("GH200 480GB", 4000, _DATA_SHEET), ("GH200 144G HBM3e", 4900, _DATA_SHEET),
    ("H100", 3350, _DATA_SHEET), ("H100 PCIe", 2039, _DATA_SHEET), ("H100 NVL", 3938, _DATA_SHEET),
    ("A100", 2039, _DATA_SHEET), ("A100 80GB PCIe", 1935, _DATA_SHEET),
    ("A100-SXM4-40GB", 1555, _DATA_SHEET), ("A100-PCIE-40GB", 1555, _DATA_SHEET),
    ("L40", 864, _DATA_SHEET), ("L40S", 864, _DATA_SHEET), ("L4", 300, _DATA_SHEET),
    ("A40", 696, _DATA_SHEET), ("A30", 933, _DATA_SHEET), ("A10", 600, _DATA_SHEET), ("A10G", 600, _DATA_SHEET),
    ("A16", 200, _DATA_SHEET), ("A2", 200, _DATA_SHEET), ("T4", 320, _DATA_SHEET),
    ("Tesla V100", 900, _DATA_SHEET), ("Tesla P100", 732, _DATA_SHEET), ("Tesla P100-PCIE-12GB", 549, _DATA_SHEET),
    ("Tesla P40", 346, _DATA_SHEET), ("Tesla P4", 192, _DATA_SHEET), ("Tesla M40", 288, _DATA_SHEET),
    ("Tesla M4", 88, _DATA_SHEET), ("Tesla M60", 160, _DATA_SHEET), ("Tesla K80", 240, _DATA_SHEET),
    # Workstations.
    ("RTX PRO 6000", 1792, _DATA_SHEET), ("RTX 6000 Ada", 960, _DATA_SHEET), ("RTX 5000 Ada", 576, _DATA_SHEET),
    ("RTX 4500 Ada", 432, _DATA_SHEET), ("RTX 4000 Ada", 360, _DATA_SHEET), ("RTX 4000 SFF Ada", 280, _DATA_SHEET),
    ("RTX 2000 Ada", 224, _DATA_SHEET), ("RTX A6000", 768, _DATA_SHEET), ("RTX A5500", 768, _DATA_SHEET),
    ("RTX A5000", 768, _DATA_SHEET), ("RTX A4500", 640, _DATA_SHEET), ("RTX A4000", 448, _DATA_SHEET),
    ("RTX A2000", 288, _DATA_SHEET), ("RTX A1000", 192, _DATA_SHEET), ("RTX A400", 96, _DATA_SHEET),
    ("Quadro RTX 8000", 672, _DATA_SHEET), ("Quadro RTX 6000", 672, _DATA_SHEET), ("Quadro RTX 5000", 448, _DATA_SHEET),
    ("Quadro RTX 4000", 416, _DATA_SHEET),
    # Desktops.
    ("RTX 5090", 1792, _GEFORCE), ("RTX 5080", 960, _GEFORCE), ("RTX 5070 Ti", 896, _GEFORCE),
    ("RTX 5070", 672, _GEFORCE), ("RTX 5060 Ti", 448, _GEFORCE), ("RTX 5060", 448, _GEFORCE),
    ("RTX 4090", 1008, _GEFORCE), ("RTX 4080 SUPER", 736, _GEFORCE), ("RTX 4080", 717, _GEFORCE),
    ("RTX 4070 Ti SUPER", 672, _GEFORCE), ("RTX 4070 Ti", 504, _GEFORCE), ("RTX 4070 SUPER", 504, _GEFORCE),
    ("RTX 4070", 504, _GEFORCE), ("RTX 4060 Ti", 288, _GEFORCE), ("RTX 4060", 272, _GEFORCE),
    ("RTX 3090 Ti", 1008, _GEFORCE), ("RTX 3090", 936, _GEFORCE), ("RTX 3080 Ti", 912, _GEFORCE),
    ("RTX 3080", 760, _GEFORCE), ("RTX 3070 Ti", 608, _GEFORCE), ("RTX 3070", 448, _GEFORCE),
    ("RTX 3060 Ti", 448, _GEFORCE), ("RTX 3060", 360, _GEFORCE), ("RTX 3050", 224, _GEFORCE),
    ("RTX 2080 Ti", 616, _GEFORCE), ("RTX 2080 SUPER", 496, _GEFORCE), ("RTX 2080", 448, _GEFORCE),
    ("RTX 2070", 448, _GEFORCE), ("RTX 2060", 336, _GEFORCE), ("GTX 1080 Ti", 484, _GEFORCE),
    # Laptops.
    ("RTX 4090 Laptop", 576, _LAPTOP), ("RTX 4080 Laptop", 432, _LAPTOP), ("RTX 4070 Laptop", 256, _LAPTOP),
    ("RTX 4060 Laptop", 256, _LAPTOP), ("RTX 4050 Laptop", 192, _LAPTOP), ("RTX 3080 Ti Laptop", 512, _LAPTOP),
    ("RTX 3080 Laptop", 448, _LAPTOP), ("RTX 3070 Ti Laptop", 448, _LAPTOP), ("RTX 3070 Laptop", 448, _LAPTOP),
    ("RTX 3060 Laptop", 336, _LAPTOP), ("RTX 3050 Ti Laptop", 192, _LAPTOP), ("RTX 3050 Laptop", 192, _LAPTOP),
    ("RTX A5000 Laptop", 448, _RTX_LAPTOP), ("RTX A4500 Laptop", 384, _RTX_LAPTOP),
    ("RTX A4000 Laptop", 384, _RTX_LAPTOP), ("RTX A3000 Laptop", 264, _RTX_LAPTOP),
    ("RTX A2000 Laptop", 176, _RTX_LAPTOP), ("RTX A1000 Laptop", 176, _RTX_LAPTOP),
    # Other makers.
    ("MI355X", 8000, _AMD), ("MI325X", 6000, _AMD), ("MI300X", 5300, _AMD), ("MI300A", 5300, _AMD),
    ("MI250X", 3277, _AMD), ("MI250", 3277, _AMD), ("MI210", 1638, _AMD), ("RX 7900 XTX", 960, _AMD),
    ("Arc A770", 560, _INTEL), ("Arc B580", 456, _INTEL),
    ("Apple M4 Max", 546, _APPLE), ("Apple M4 Pro", 273, _APPLE), ("Apple M4", 120, _APPLE),
    ("Apple M3 Ultra", 819, _APPLE), ("Apple M3 Max", 400, _APPLE), ("Apple M3 Pro", 150, _APPLE),
    ("Apple M3", 100, _APPLE), ("Apple M2 Ultra", 800, _APPLE), ("Apple M2 Max", 400, _APPLE),
    ("Apple M2 Pro", 200, _APPLE), ("Apple M2", 100, _APPLE), ("Apple M1 Ultra", 800, _APPLE),
    ("Apple M1 Max", 400, _APPLE), ("Apple M1 Pro", 200, _APPLE), ("Apple M1", 68, _APPLE),
)  # fmt: skip
"""The words of a name, GB/s as its maker states them, and the source."""
