"""What `simcse_jax` exports: in order, documented, and imported no earlier than it is asked for."""

import subprocess
import sys

import pytest

import simcse_jax


def test_they_are_in_order():
    assert simcse_jax.__all__ == sorted(set(simcse_jax.__all__))
    assert set(simcse_jax._LATER) < set(simcse_jax.__all__) <= set(dir(simcse_jax))


@pytest.mark.parametrize("name", sorted({*simcse_jax.__all__} - {"__version__"}))
def test_each_is_documented_where_it_is_defined(name):
    found = getattr(simcse_jax, name)
    assert found.__name__ == name
    assert found.__module__.startswith("simcse_jax.")
    sentence = found.__doc__.strip().splitlines()[0]
    assert sentence.endswith((".", ":", ","))
    assert sentence[0].isupper()


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = simcse_jax.nothing


def test_who_encodes_does_not_import_the_rest():
    code = "import sys, simcse_jax; print(*sys.modules)"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "simcse_jax.encoder" in loaded
    assert not loaded & {"optax", "grain", "sklearn", "transformers", "scipy.stats", "orbax"}
    assert not loaded & ({*simcse_jax._LATER.values()} - {"simcse_jax.losses.info_nce"})
