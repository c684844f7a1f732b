"""Sentence embeddings in JAX: BERT averages, Sentence-BERT, BERT-flow, BERT-whitening, SimCSE."""

__version__ = "0.1.0"

from simcse_jax.encoder import SentenceEncoder, cosine_similarity

__all__ = ["SentenceEncoder", "__version__", "cosine_similarity"]
