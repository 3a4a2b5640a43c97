"""What each target can express, as data.

Owns the values by which placement asks what a consumer takes, the table of those that come with the package, and the
registry that third parties add to. Placement asks abilities, never names. The conversion into a consumer's form is
in `targets`.
"""

from devpolicy._core.abilities.registry import (
    DEFAULT_TARGET,
    NAMED,
    TargetError,
    default_target,
    register,
    target_named,
    target_of,
    targets,
)
from devpolicy._core.abilities.values import Abilities, StreamingMode, Target

__all__ = [
    "DEFAULT_TARGET",
    "NAMED",
    "Abilities",
    "StreamingMode",
    "Target",
    "TargetError",
    "default_target",
    "register",
    "target_named",
    "target_of",
    "targets",
]
