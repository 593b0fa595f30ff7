"""Reading image files of any kind and drawing masks on them, with NumPy and Pillow alone."""
