"""The list of packages and of their data; the YAML files of configs/ are shipped as ``crispmask/configs``.

Everything else is in pyproject.toml, which cannot mix found packages with a folder from elsewhere.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["crispmask*", "*_d2*"]),
        "crispmask.configs",
    ],
    package_dir={"crispmask.configs": "configs"},
    include_package_data=False,
    package_data={
        "crispmask.analysis": ["templates/*"],
        "crispmask.configs": ["**/*.yaml"],
        "": ["figures.yaml", "py.typed"],
    },
)
