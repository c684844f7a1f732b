"""What reproduces the papers: training runs, tables, figures and benchmarks.

Each docstring of a script gives its command; `experiments/results` holds what they measured here.
"""
