"""Readers, tokenised and packed batches."""
