"""Pure functions of arrays: the objectives, equation by equation."""
