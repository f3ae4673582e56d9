"""Execute the notebooks at their default parameters and store the outputs that tests compare, and no others.

`python tools/outputs.py` after a change of a notebook, of the records or of what is computed from them. Figures and
tables are left out of the repository: the book makes them.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import nbformat
import papermill

CHECKED = "nbval-check-output"


def store(path: pathlib.Path, root: pathlib.Path) -> int:
    """Write the checked outputs of one notebook into it; returns how many cells have one."""
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / path.name
        papermill.execute_notebook(
            str(path), str(made), kernel_name="python3", cwd=str(root), progress_bar=False, start_timeout=120
        )
        outputs = {cell["id"]: cell.get("outputs", []) for cell in nbformat.read(made, as_version=4).cells}
    notebook, checked = nbformat.read(path, as_version=4), 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            wanted = CHECKED in cell.metadata.get("tags", [])
            checked += wanted
            # nbval refuses outputs of a cell without a count
            cell.outputs, cell.execution_count = (outputs[cell["id"]], 1) if wanted else ([], None)
            for output in cell.outputs:
                output.pop("execution_count", None)
    nbformat.write(notebook, path)
    return checked


if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parent.parent
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        print(f"{notebook.name}: {store(notebook, root)} cells with stored outputs", file=sys.stderr)
