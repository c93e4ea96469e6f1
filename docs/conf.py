"""The documentation's site: Markdown through MyST, diagrams through PlantUML, nothing from the network.

`make docs` builds it into build/docs; every warning, so every broken reference or anchor, fails the build.
"""

import subprocess
from pathlib import Path

from sphinx.application import Sphinx

from gateway import __version__

project = "Telegram gateway"
author = "the Telegram gateway's authors"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["diagrams"]
html_theme = "furo"
html_title = f"Telegram gateway {__version__}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
# What a page's headings are called in links (configure.md#the-journal), as on the usual Git hosts.
myst_heading_anchors = 3
# Images that state their width are written as HTML, which other readers of Markdown show as well.
myst_enable_extensions = ["html_image"]


def render_diagrams(app: Sphinx) -> None:
    """Draws diagrams/*.puml as SVG into the site's diagrams/; a fault in one ends the build."""
    sources = map(str, sorted(Path(app.srcdir, "diagrams").glob("*.puml")))
    command = ["plantuml", "-Djava.awt.headless=true", "-failfast2", "-tsvg", "-o", f"{app.outdir}/diagrams"]
    subprocess.run([*command, *sources], check=True)  # noqa: S603


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("builder-inited", render_diagrams)
