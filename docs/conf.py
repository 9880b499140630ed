"""How Sphinx builds the site: ``nox -s docs``. Pages are plain Markdown, which reads well where it lies, too.

A new page needs a line in `index.md`, and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import async_adag

ROOT = Path(__file__).parents[1]
PAGES_OF_THE_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

project = "async_adag"
version = release = async_adag.__version__
html_theme = "furo"
html_title = f"async_adag {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Links: every one inside the site, to headings too, is checked, and so is every name in the docstrings.
nitpicky = True
myst_heading_anchors = 4
default_role = "any"
nitpick_ignore_regex = [
    (r"any|py:.*", r"(_?asyncio|collections|ray|typing|enum|concurrent)\..*"),  # described elsewhere
    (r"py:.*", r"(DAGNode|TextIO|Any|Self|Format|dict|list|tuple|int|float|str|bool|object|None|Exception)"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _take_from_the_root(_app: Any, page: str, source: list[str]) -> None:
    """Pages that stand at the root of the repository become pages of the site; their links follow."""
    for file, page_file in PAGES_OF_THE_ROOT.items():
        if page == page_file.removesuffix(".md"):
            text = (ROOT / file).read_text(encoding="utf-8")
            source[0] = re.sub(r"(\]\()([^)#:]+)(?=[#)])", _link, text) + "\n\n" + source[0]


def _link(match: re.Match[str]) -> str:
    bracket, target = match.groups()
    if target in PAGES_OF_THE_ROOT:
        return bracket + PAGES_OF_THE_ROOT[target]
    return bracket + (target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _take_from_the_root)
