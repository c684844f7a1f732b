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
# Compilation is most of the suite's time: what one worker, process or run of the suite compiled,
# the others read. However short it took, since there are thousands of programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".xla_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest  # noqa: E402
from jaxtyping import config, install_import_hook  # noqa: E402

# Before the library is imported anywhere: the types and shapes in its signatures are checked at
# each call. The tower is PEP 484's: an int will do where a float is wanted.
install_import_hook(
    "simcse_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

from tiny_data import SENTENCES, write_nli, write_stsb  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `../shared/data` beside the repository; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which lies beside the repository on CI")
    return folder


@pytest.fixture
def unchecked():
    """Signatures are not checked: for tests of what the library itself says to wrong input."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def golden() -> Path:
    """What torch and sentence-transformers computed, written by `tests/make_golden.py`."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A SentEval folder with STS-B, NLI pairs and sentences, in words that a tiny model knows."""
    folder = tmp_path_factory.mktemp("tiny-data")
    write_stsb(folder)
    write_nli(folder / "nli.jsonl")
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    return folder
