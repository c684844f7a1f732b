"""What every test shares: eight fake CPU devices, and the repository's neighbours."""

import os
from pathlib import Path

# Before jax is imported anywhere: one process, eight devices, so that every
# data-parallel path runs in an ordinary test.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `../shared/data` beside the repository; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which lies beside the repository on CI")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """What torch and sentence-transformers computed, written by `tests/make_golden.py`."""
    return ROOT / "tests" / "golden"
