"""Figures: their numbers measured into JSON, and drawn from that alone."""
