"""The result: where each part of a model runs and is kept, and why.

Owns `Plan`, `Placement` and `Budget`, their JSON form and digest. How a plan is made is the
matter of the modules beside it; what a consumer makes of it is an adapter's.
"""

from __future__ import annotations
