"""Readers of the files that people bring, for evaluation and for training alike."""
