"""Masks drawn on pictures, with NumPy and Pillow alone."""
