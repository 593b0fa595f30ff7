"""Run lengths, crops and boundaries of masks, as NumPy arrays."""
