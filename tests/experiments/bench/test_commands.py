"""Every benchmark that no other test runs whole, as a command and in small: ours alone."""

import json
import subprocess
import sys

import pytest
from tiny_data import SENTENCES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cold_start", "--rounds 1"),
        ("compiler_options", "--data text.txt --rounds 1"),
        ("encode", "--data text.txt --rounds 1"),
        ("growth", "--data STS --sizes 8 16"),
        ("low_precision", "--data text.txt --rounds 1"),
        ("masked_lm", "--train-file text.txt --batch-size 8 --rounds 1"),
        ("train", "--train-file text.txt --batch-size 8 --steps 1 --rounds 1"),
    ],
)
def test_a_benchmark_writes_its_numbers_and_its_table(name, options, tiny_data, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    words = options.replace("STS", str(tiny_data)).replace("text.txt", str(tmp_path / "text.txt"))
    output = tmp_path / "numbers.json"
    command = [sys.executable, "-W", "ignore", "-m", f"experiments.bench.{name}", *words.split()]
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    numbers = json.loads(output.read_text())
    assert numbers["rows"]
    assert numbers["machine"]["matmul_gflops"] > 0
    assert output.with_suffix(".md").read_text().count("\n| ") >= 3
    assert str(tmp_path) not in output.read_text()
