"""One script per table, figure or training run of the papers; each docstring gives the command."""
