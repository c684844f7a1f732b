"""One file a published run: `simcse-jax train experiments/configs/NAME.py`."""
