"""The build of these pages by `make docs`: Sphinx with MyST. Both are maintained, and the search works without a server.

Nothing is fetched when a page is viewed.
"""

from s2sgw import __version__

project = "s2sgw"
author = "the s2sgw maintainers"
release = version = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
master_doc = "index"
exclude_patterns = ["_build"]
# Headings get the anchors that GitHub gives them. A link to a page or an anchor that does not exist is a warning.
myst_heading_anchors = 4
nitpicky = True
html_theme = "furo"
html_title = f"s2sgw {version}"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None
html_theme_options = {"source_repository": ""}
