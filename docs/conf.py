"""Configuration of Sphinx: ``make docs``. Nothing is fetched from the network."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks: quicker, repeatable

import sklpos

project = "sklpos"
author = "sklpos developers"
project_copyright = author
version = release = sklpos.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "own_members",
    "strategy_table",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
smartquotes = False
default_role = "py:obj"  # a `name` in a docstring links to its page, if it has one
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # numpydoc's types are for readers
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template lists them
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "ExampleTitleSortKey",
    "doc_module": ("sklpos",),
    "backreferences_dir": "reference/generated/backreferences",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"sklpos {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "sklpos"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "auto_examples/index": []}

# no button on what is printed
copybutton_selector = "div:not(.highlight-text, .highlight-none) > div.highlight > pre"
copybutton_exclude = ".linenos, .gp, .go"
