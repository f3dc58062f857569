"""The notebooks: what is committed is what their code gives, and both languages have the same code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
ENGLISH, CHINESE = (
    REPOSITORY / "notebooks" / f"vae_from_theory_to_practice{end}.ipynb" for end in ("", "_zh")
)
LARGEST = 1_500_000  # bytes
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|usr|opt|mnt|var|Users|private)/|[A-Z]:\\\\")
CHINESE_TEXT = re.compile(r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def texts(output: Any) -> str:
    """All of an output that is no picture."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(
        str(v) for kind, v in data.items() if not kind.startswith("image/")
    )


def test_both_languages_are_there() -> None:
    assert NOTEBOOKS == [ENGLISH, CHINESE]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_a_fresh_kernel_has_run_it(path: Path) -> None:
    nbformat.validate(read(path))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 15
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_place_of_the_machine_it_ran_on(path: Path) -> None:
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        for text in (cell.source, *(texts(output) for output in cell.get("outputs", []))):
            assert not ABSOLUTE.search(text), text


def test_both_languages_have_the_same_code_but_for_what_is_said() -> None:
    english, chinese = code_cells(ENGLISH), code_cells(CHINESE)
    assert [cell.id for cell in english] == [cell.id for cell in chinese]
    for one, other in zip(english, chinese):
        assert skeleton(one.source, other.source) == skeleton(other.source, other.source), one.id


def skeleton(source: str, translated: str) -> str:
    """The syntax tree of ``source``, without the strings that are Chinese in ``translated``."""
    tree, other = ast.parse(source), ast.parse(translated)
    for node, twin in zip(ast.walk(tree), ast.walk(other)):
        if isinstance(node, ast.Constant) and isinstance(twin, ast.Constant) and isinstance(twin.value, str) and CHINESE_TEXT.search(twin.value):  # fmt: skip
            node.value = "said"
    return ast.dump(tree)


def test_another_number_is_other_code() -> None:
    assert skeleton("print('one', 1)", "print('一', 1)") == skeleton("print('一', 1)", "print('一', 1)")
    assert skeleton("print('one', 1)", "print('一', 2)") != skeleton("print('一', 2)", "print('一', 2)")
    assert skeleton("train('a=1')", "train('a=2')") != skeleton("train('a=2')", "train('a=2')")


def run(path: Path, folder: Path, **variables: str) -> list[Any]:
    """The code cells of a notebook, run in a folder of its own."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "notebooks.py"), "--into", str(folder), str(path)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cells = code_cells(folder / path.name)
    assert not [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_fresh_kernel_and_all_that_it_claims_holds(
    path: Path, tmp_path: Path, mnist_dir: Path
) -> None:
    cells = run(path, tmp_path / "notebooks", DATA_DIR=str(mnist_dir))
    assert len(cells) == len(code_cells(path))
    assert list((tmp_path / "logs" / "notebook").glob("*/model.safetensors"))


@pytest.mark.slow
def test_a_notebook_runs_on_the_digits_where_there_is_no_mnist_and_no_network(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    cells = run(ENGLISH, tmp_path / "notebooks", DATA_DIR=str(tmp_path / "data"), XDG_CACHE_HOME=str(tmp_path / "cache"), no_proxy="127.0.0.1,localhost", **nowhere)  # fmt: skip
    assert any("digits: 1,437 training images" in texts(o) for cell in cells for o in cell.outputs)
