"""How far a plan can be from the least predicted time there is.

Owns the certificate of a plan: a bound that no placement of the same kind is below, and who found it. A certificate is
made of a finished plan and changes nothing of it. With `highspy` (the extra `solver`) the bound comes from HiGHS, which
is given a number of nodes and never a time, so that it is the same on every machine; without it a looser bound is
worked out by hand, and labelled so.
"""

from __future__ import annotations

from devpolicy._core.certify.bound import Certificate, certify

__all__ = ["Certificate", "certify"]
