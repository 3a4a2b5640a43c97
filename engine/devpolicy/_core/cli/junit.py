"""The results of policies' tests as JUnit XML, which every CI reads.

Owns that form: a suite for each file, a case for each test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from devpolicy._core.review.run import Result

_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, even escaped."""


def junit(results: Iterable[Result]) -> str:
    """Return results as one `testsuites` document."""
    by_file: dict[str, list[Result]] = {}
    for result in results:
        by_file.setdefault(result.suite, []).append(result)
    root = ET.Element("testsuites", name="devpolicy")
    for file, tests in by_file.items():
        failed = sum(not test.passed for test in tests)
        suite = ET.SubElement(root, "testsuite", name=_text(file), tests=str(len(tests)), failures=str(failed))
        suite.attrib |= {"errors": "0", "skipped": "0", "time": f"{sum(test.seconds for test in tests):.3f}"}
        for test in tests:
            _case(suite, file, test)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode", xml_declaration=False)
    return text.replace("##[", "#&#35;[") + "\n"  # no line of a CI log is a command


def _case(suite: ET.Element, file: str, test: Result) -> None:
    case = ET.SubElement(suite, "testcase", classname=_text(file), name=_text(test.name), file=_text(file))
    case.attrib |= {"time": f"{test.seconds:.3f}", **({"line": str(test.place.line)} if test.place else {})}
    for finding in test.findings:
        told = ET.SubElement(case, "failure", message=_text(finding.message), type=finding.code)
        told.text = _text(finding.render())


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
