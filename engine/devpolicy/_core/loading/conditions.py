"""What a host lacks for a scheme.

Owns the comparison of a host's facts with what a scheme needs there, and the sentence that says what is missing.
"""

from __future__ import annotations

from devpolicy._core.loading.quantization import Condition, Facts, Package


def lacks(condition: Condition | None, facts: Facts) -> str:
    """Return what a host lacks for a scheme, empty where it lacks nothing."""
    if condition is None:
        return ""
    if condition.capability:
        if facts.kind not in condition.capability:
            return f"`{facts.kind}` does not run it"
        least = condition.capability[facts.kind]
        if least is not None and (facts.capability is None or facts.capability < least):
            has = "not known" if facts.capability is None else ".".join(map(str, facts.capability))
            return f"it needs compute capability {'.'.join(map(str, least))}, and the least of this host is {has}"
    versions = dict(facts.versions)
    for package in condition.recorded:
        version = versions.get(package.name)
        if version is None:
            return f"it needs `{package}`, and this host does not record a version of it"
        if not _is_version(version, package.version):
            return f"it needs `{package}`, and this host has {version}"
    return ""


def is_rocm(facts: Facts) -> bool:
    """Return whether a host's cards are AMD's, which torch calls `cuda` too."""
    return "+rocm" in dict(facts.versions).get("torch", "")


def wrong_version(packages: tuple[Package, ...], facts: Facts) -> str:
    versions = dict(facts.versions)
    for package in packages:
        version = versions.get(package.name)
        if version is not None and not _is_version(version, package.version):
            return f"it needs `{package}`, and this host has {version}"
    return ""


def assumed_of(packages: tuple[Package, ...], facts: Facts) -> tuple[Package, ...]:
    known = dict(facts.versions)
    return tuple(package for package in packages if package.name not in known)


def _is_version(version: str, wanted: str) -> bool:
    """Return whether a version is as wanted; what is no version is taken to be."""
    if not wanted:
        return True
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(wanted, prereleases=True).contains(Version(version))
    except InvalidVersion:
        return True
