"""The documentation site, built from the Markdown that is also read in the repository: `tox run -e docs`.

Owns the order of the pages in the sidebar, and the playground beside them; nothing of their text. The source folder is
the root of the repository, so that a link leads to the same page on the site and in the repository.

The site carries the playground where Pyodide is: in `$DEVPOLICY_NODE_MODULES`, or where `--download` of the command
keeps it.
"""

from __future__ import annotations

import os
from pathlib import Path

import devpolicy
from devpolicy._core.playground.download import kept
from devpolicy._core.playground.site import files

project = "devpolicy"
author = "The devpolicy authors"
copyright = "The devpolicy authors, Apache-2.0"  # noqa: A001 (the name that Sphinx reads)
version = release = devpolicy.__version__

SECTIONS = {
    "Start": ["getting-started", "tutorial"],
    "By reader": ["transformers", "haystack", "llama-cpp", "testing-policies", "architecture"],
    "How to: policies": ["plan-a-model", "what-fits", "find-out-why", "change-a-policy", "components", "ci"],
    "How to: models and machines": [
        *("migrating", "dry-run", "testing", "quantized-models", "other-libraries", "fleets", "targets"),
    ],
    "Reference": [
        *(
            "language",
            "commands",
            "error-codes",
            "json-output",
            "python-api",
            "site/api",
            "hosts-and-models",
            "architectures",
        ),
        "versions",
    ],
    "How it works": ["how-it-places", "simulation", "conformance", "limits", "when-not", "glossary"],
    "Beside other libraries": ["differences-from-haystack", "library-choices"],
    "Project": ["../CONTRIBUTING", "../SECURITY", "../CHANGELOG"],
    "In the repository": [
        "../policy/README",
        "../fixtures/README",
        "../benchmarks/README",
        "../examples/dry-run/README",
        "../examples/haystack-rag/README",
        "../examples/target/README",
    ],
}
"""The pages of the sidebar, from `docs/`, by heading. Sphinx warns of a page that is in none, and a warning fails."""

root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/site/api.rst", "*/README.md", "examples/*/README.md"] + [
    f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")
]
exclude_patterns = ["tests/**", ".*/**"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
default_role = "literal"
nitpicky = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
autodoc_class_signature = "mixed"
python_display_short_literal_types = True
add_module_names = False

html_theme = "furo"
html_title = "devpolicy"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
# TOML that is wrong on purpose cannot be highlighted; a type hint `type` is Python's, not an attribute of that name.
suppress_warnings = ["misc.highlighting_failure", "ref.python"]


def pyodide() -> Path | None:
    """Return the folder of Pyodide, if there is one."""
    modules = os.environ.get("DEVPOLICY_NODE_MODULES")
    folder = Path(modules) / "pyodide" if modules else kept()
    return folder if folder.is_dir() else None


def write_playground(site: Path) -> None:
    """Write the playground into the folder of a site."""
    folder = pyodide()
    for name, content in files(folder).items() if folder else ():
        file = site / "playground" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def with_playground(app: object, page: str, source: list[str]) -> None:
    """Lead from the section on the playground to the one of the site."""
    if page == "docs/getting-started" and pyodide():
        heading = "## The playground\n"
        assert heading in source[0]
        link = '<a href="../playground/index.html">Open the playground of this site.</a>'
        source[0] = source[0].replace(heading, f"{heading}\n{link}\n")


def with_sidebar(app: object, page: str, source: list[str]) -> None:
    """Append the tree of pages to the start page, which stays plain Markdown in the repository."""
    if page == root_doc:
        trees = (
            f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```"
            for caption, pages in SECTIONS.items()
        )
        source[0] += "\n\n" + "\n\n".join(trees) + "\n"


def setup(app: object) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("source-read", with_sidebar)  # type: ignore[attr-defined]
    app.connect("source-read", with_playground)  # type: ignore[attr-defined]
    app.connect("build-finished", lambda app, broken: broken or write_playground(Path(app.outdir)))  # type: ignore[attr-defined]
