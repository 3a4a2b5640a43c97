"""A plan in a notebook: a real kernel runs the cell, and what it shows is the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.views.markup import SVG

CELLS = ["import devpolicy", "devpolicy.plan('offload-lm-head', 'llama-3.1-70b', '4x80gb')"]


def test_a_cell_shows_the_plan_as_a_picture():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[1].outputs
    root = ElementTree.fromstring(output.data["text/html"])
    assert root.tag == f"{SVG}svg"
    assert "cuda:1" in "".join(root.itertext())
    assert output.data["text/plain"].startswith("<Plan for hf")
