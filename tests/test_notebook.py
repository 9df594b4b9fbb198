"""The notebook runs from top to bottom, at a smaller size, and is the text it is kept as."""

import random
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def test_the_notebook_is_the_text_beside_it() -> None:
    text, notebook = (jupytext.read(NOTEBOOKS / f"quickstart.{kind}") for kind in ("py", "ipynb"))
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (text, notebook)]
    assert cells[0] == cells[1], "make notebook"
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = NOTEBOOKS.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    words, draw = sorted({word.strip(".") for text in documents for word in text.split()} - {""}), random.Random(0)
    sentences = [" ".join(draw.choices(words, k=draw.randint(7, 15))) + "." for _ in range(1800)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(draw.sample(sentences, 3)) for _ in range(600)))
    notebook = jupytext.read(NOTEBOOKS / "quickstart.py")
    parameters = next(cell for cell in notebook.cells if cell.source.startswith("import os"))
    options = [f"--model.config.{name}={value}" for name, value in SMALL.items()]
    parameters.source += f"\nSTEPS, EXAMPLES, TEXT = 16, 32, {str(corpus)!r}\nMODEL = {options!r}"
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the picture of the mask"
    shown = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    for text in ("RigL, 80.", "| quickstart |", "'label':"):
        assert text in shown, text
    assert (tmp_path / "runs" / "notebook" / "glue" / "version_0" / "export" / "sparsity.json").is_file()
