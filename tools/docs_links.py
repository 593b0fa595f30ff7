"""A hook of mkdocs for pages that are read in the repository, too.

``--8<-- "INSTALL.md"`` puts a file from the top of the repository into a page. Links that lead from there
into docs/ become links between pages; links to configs and code, which the site does not hold, plain text.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
# Files that pages consist of
PAGES = {"INSTALL.md": "docs/install.md", "MODEL_ZOO.md": "docs/model_zoo.md", "README.md": "docs/index.md"}


def on_page_markdown(markdown, page, **kwargs):
    """The text of a page as mkdocs shall read it."""
    here = posixpath.dirname("docs/" + page.file.src_uri)
    text = INCLUDE.sub(lambda found: site_links((ROOT / found[1]).read_text(), "", here), markdown)
    return site_links(text, here, here)


def site_links(text, source, here):
    """Rewrite the links of a text that stands in the folder ``source`` for a page in the folder ``here``."""

    def rewrite(found):
        target = posixpath.normpath(posixpath.join(source, found[2]))
        target = PAGES.get(target, target)
        if not target.startswith("docs/"):
            return found[1]
        return f"[{found[1]}]({posixpath.relpath(target, here)}{found[3] or ''})"

    return LINK.sub(rewrite, text)
