"""Prints MODEL_ZOO.md."""

from crispmask.model_zoo.table import render

if __name__ == "__main__":
    print(render(), end="")
