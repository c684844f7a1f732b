"""STS in every protocol, triplets, transfer tasks, the geometry, search: arrays in, numbers out."""
