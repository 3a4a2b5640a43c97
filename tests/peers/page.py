"""The table of other projects' suites in `docs/simulation.md`, made of what is expected of them.

`python -m tests.peers.page` writes it anew.
"""

from __future__ import annotations

from tests.peers.suites import HERE, Suite, read_suites

PAGE = HERE.parents[1] / "docs" / "simulation.md"
COLUMNS = ("here", "two", "four")
BEGIN, END = "<!-- peers -->", "<!-- /peers -->"


def _sum(suite: Suite, host: str) -> str:
    """Return how many tests passed, failed and were skipped in all files, empty where the suite has no such host."""
    rows = [counts[host] for counts in suite.counts.values() if host in counts]
    return " / ".join(str(sum(column)) for column in zip(*rows, strict=True))


def _what(suite: Suite) -> str:
    """Return what runs of a suite, and of how many of its files the numbers are known."""
    known = len(suite.counts)
    return suite.what if known == len(suite.files) else f"{suite.what}; numbers of {known} of {len(suite.files)} files"


def suites_table() -> str:
    """Return the table: a row for each suite, then why what deviates does."""
    lines = [
        "| suite | what of it | this machine | two GPUs | four GPUs |",
        "|---|---|---|---|---|",
        *(
            f"| {suite.package} | {_what(suite)} | {' | '.join(_sum(suite, host) for host in COLUMNS)} |"
            for suite in read_suites()
        ),
        "",
        "| deviation | reason |",
        "|---|---|",
        *(
            f"| {suite.package}: `{each['test'].rpartition('::')[2]}`{_on(each)} | {each['reason']} |"
            for suite in read_suites()
            for each in suite.deviation
        ),
    ]
    return "\n".join(lines)


def _on(deviation: dict[str, str]) -> str:
    return f", on {deviation['host']} GPUs" if "host" in deviation else ""


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{suites_table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
