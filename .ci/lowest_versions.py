"""Print a pip constraints file that pins every dependency of pyproject.toml to the lowest version it allows."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
requirements = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
for requirement in requirements:
    # "psycopg[binary,pool]>=3.2" -> "psycopg==3.2": constraints name no extras
    bound = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)", requirement)
    if bound:
        print(f"{bound[1]}=={bound[2]}")
