"""Reading weights and comparing them; model folders of sentence-transformers, to be spoilt."""

import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

from simcse_jax import hub
from simcse_jax.io import read_json, write_json


def load(folder, **kwargs):
    return hub.load_params(folder, hub.read_config(folder), **kwargs)


def assert_same(a, b):
    a, b = hub.to_torch_names(*a), hub.to_torch_names(*b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file(tensors, path, {"format": "pt"})


def change_json(path, **changes):
    """Change keys of a JSON file, which is made where there is none."""
    raw = read_json(path) if path.exists() else {}
    write_json(path, raw | changes)


def make_modules(folder, *kinds):
    """Write the list of modules of a folder; each but the first has a folder of its own."""
    modules = [
        {"path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)


def make_pooled(model, folder):
    """Make a folder of sentence-transformers of a tiny model: old layout, mean pooling."""
    shutil.copytree(model, folder)
    make_modules(folder, "Transformer", "Pooling")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    return folder


def make_dense(folder, name, weight, bias=None, changes=None):
    """Write the folder of a linear Dense module."""
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    said = {
        "in_features": weight.shape[-1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / name / "config.json", said | (changes or {}))
    save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
