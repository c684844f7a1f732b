"""Reading weights and comparing them."""

import numpy as np

from simcse_jax import hub


def load(folder, **kwargs):
    return hub.load_params(folder, hub.read_config(folder), **kwargs)


def assert_same(a, b):
    a, b = hub.to_torch_names(*a), hub.to_torch_names(*b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
