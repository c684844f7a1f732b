"""Where models are looked for, and what is said where there is none."""

import pytest
from hub_support import load

from simcse_jax import hub


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "no-such-model-anywhere"])
def test_a_model_that_is_nowhere(name):
    with pytest.raises(
        FileNotFoundError, match=r"does not exist|is no folder, and the Hugging Face hub"
    ):
        hub.find_model(name)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="only pickled weights .*save_pretrained"):
        load(folder)
