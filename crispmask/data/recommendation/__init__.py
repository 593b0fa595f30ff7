"""Config values that fit a data set: rules of thumb, whose sources docs/data_tools.md has."""
