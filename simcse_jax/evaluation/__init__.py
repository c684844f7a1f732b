"""STS in every protocol, triplets, alignment and uniformity: arrays in, numbers out."""
