"""Benchmarks: speed and memory beside other libraries, and what a compute type changes."""
