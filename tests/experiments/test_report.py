"""How numbers, tables and files are reported."""

import dataclasses
from pathlib import Path

from experiments import report


def test_mean_and_deviation():
    assert report.mean_and_deviation([1.005]) == "1.00"
    assert report.mean_and_deviation([1.0, 2.0, 3.0]) == "2.00 ± 1.00"


def test_markdown():
    text = report.markdown(["method", "score"], [["a", "1.00"], ["b", ""]])
    assert text == "| method | score |\n| --- | --- |\n| a | 1.00 |\n| b |  |"


def test_latex_escapes():
    rows = [["a & b", "1.00 ± 0.10", "–"], ["  p", "2", "50 %"]]
    code = report.latex("A_title × 100", ["", "x", "y"], rows)
    assert r"a \& b & 1.00 $\pm$ 0.10 & -- \\" in code
    assert r"\quad p & 2 & 50 \% \\" in code
    assert r"\caption{A\_title $\times$ 100}" in code
    assert r"\begin{tabular}{lrr}" in code
    assert code.endswith("\\end{table}\n")


def test_a_printed_table(capsys):
    report.print_table("A title", ["method", "score"], [["long name", "1.00"]])
    printed = capsys.readouterr().out
    assert "A title" in printed
    assert "long name" in printed
    assert "1.00" in printed


@dataclasses.dataclass(frozen=True)
class Example:
    model: str
    files: tuple[Path, ...]
    trained: dict[str, Path]
    output: Path | None = None


def test_settings_name_no_folder_of_the_machine():
    settings = Example("minilm", (Path("/data/a.txt"), Path("b.txt")), {"one": Path("/runs/one")})
    assert report.settings_record(settings) == {
        "model": "minilm",
        "files": ["a.txt", "b.txt"],
        "trained": {"one": "one"},
        "output": None,
    }
