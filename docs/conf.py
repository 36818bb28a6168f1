# SPDX-License-Identifier: MIT
"""How Sphinx builds the site: ``scripts/docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from kraken_bids import __version__  # noqa: E402

project = "kraken-bids"
author = "kraken-bids contributors"
release = __version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "builder.directives",
]
exclude_patterns = ["builder"]
nitpicky = False  # docstrings name arguments and formulas between backticks, too
default_role = "py:obj"

myst_enable_extensions = ["deflist", "attrs_block"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"kraken-bids {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    # the system's own letters: no font is fetched
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
}

autodoc_typehints = "signature"
# shown by their names, not by what they stand for
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Connectomes", "NDArray")}
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
strip_signature_backslash = True  # else napoleon takes `mean_` for a link, and shows `mean`
python_maximum_signature_line_length = 90
