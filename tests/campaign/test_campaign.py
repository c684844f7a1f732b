"""Short runs of both campaigns, with seeds that do not change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = (
    *("model folders", "readers", "arguments", "command line", "run folders", "faults below"),
)
MOMENTS = ("training", "resuming", "saving a model", "saving over a model", "encoding to a file")

pytestmark = pytest.mark.slow


def run(campaign, output, *options):
    """Run a campaign as `make` does, on one device and without checks of every signature."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    command = [sys.executable, "-m", f"tests.campaign.{campaign}", *options]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": " ".join(flags)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert output.exists(), done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    output = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    return run("fuzz", output, "--cases", "300", "--seed", "2024", "--limit", "30")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    output = tmp_path_factory.mktemp("kill") / "kill.json"
    return run("kill", output, "--kills", "12", "--seed", "2024")


def failures(result, family):
    """What to look at, and by which number `--only` repeats it."""
    found = [f for f in result["failures"] if f["family"] == family]
    return [f"{f['number']}, {f['about']}: {f['detail']} {f['where']}" for f in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_hostile_input_is_right_or_a_clear_error(fuzzed, family):
    assert fuzzed["families"][family]["tried"] > 5
    assert failures(fuzzed, family) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_loses_nothing(killed, moment):
    assert failures(killed, moment) == []


def test_every_kill_was_tried(killed):
    assert sum(counts["tried"] for counts in killed["families"].values()) == 12
