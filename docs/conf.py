"""The documentation site: `make docs` builds it into docs/_build/html, warnings being errors."""

from __future__ import annotations

import pkgutil
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import api_pages  # noqa: E402

import simcse_jax  # noqa: E402

project = "simcse_jax"
author = "the authors of simcse_jax"
release = version = simcse_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# Markdown and notebooks. The notebooks are shown with the outputs that they are kept with; the
# tests execute them.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# The docstrings are in plain text with `code` in backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False

html_theme = "furo"
html_title = "simcse_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


# Napoleon takes what stands before a colon in a variable's docstring for its type; ours are prose.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end


def shorter_types(app, what, name, value, options, signature, returned):
    """Name JAX's array as its users do."""
    return tuple(
        part and part.replace("jaxlib._jax.Array", "Array") for part in (signature, returned)
    )


def write_sources(app):
    """Write the pages that are made from other files: the notebooks and the API reference."""
    shutil.copytree(ROOT / "notebooks", DOCS / "notebooks", dirs_exist_ok=True)
    api_pages.write(DOCS / "api")


def home_of(name):
    """Return the full name of an object where it is defined, by which its page knows it."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return name
    return f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else name


class NamesToLinks(SphinxTransform):
    """Make a link of every full name in backticks, such as `simcse_jax.train`, that has a page.

    In Markdown it is plain code, which reads well wherever the page is shown.
    """

    default_priority = 400

    def apply(self):
        """See Sphinx."""
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            if re.fullmatch(r"simcse_jax(\.\w+)+", name) and not isinstance(
                literal.parent, nodes.reference | pending_xref
            ):
                target = {"refdomain": "py", "reftype": "obj", "reftarget": home_of(name)}
                link = pending_xref("", literal.deepcopy(), **target)
                link["refdoc"] = self.env.docname
                literal.replace_self(link)


def setup(app):
    """Write the pages before Sphinx looks for them."""
    app.add_transform(NamesToLinks)
    app.connect("autodoc-process-signature", shorter_types)
    app.connect("config-inited", lambda app, config: write_sources(app))
