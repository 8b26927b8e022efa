"""Settings of Sphinx, which builds the documentation: `pip install -e '.[docs]' && sphinx-build -W docs build/docs`."""
import re

from flatzoo import __version__

project = 'flatzoo'
copyright = 'the flatzoo authors, Apache-2.0'
release = __version__
extensions = [
    'myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode',
]
html_theme = 'furo'
html_title = f'flatzoo {release}'
exclude_patterns = ['_build', '_templates']
templates_path = ['_templates']  # a module or a public name is a page, which autosummary writes

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3
suppress_warnings = ['myst.xref_missing', 'ref.python']  # links to files of the repository; a test follows them

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_mock_imports = ['gradio', 'torchcodec']  # extras that describe nothing of ours
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _from_markdown(app, what, name, obj, options, lines):
    """Docstrings are written in Markdown, which people read in a terminal: code spans, tables and code become RST."""
    out = []
    for line in lines:
        text = next((before for before in reversed(out) if before.strip()), '')
        after = re.match(r'[^\s:.*-].*(?<!::)$|     - ', text)  # a paragraph at the margin, or a table
        if line.startswith('    ') and out and not out[-1].strip() and after:
            out += ['::', '']  # what is indented then is code
        cells = [cell.strip() for cell in re.split(r'(?<!\\)\|', line.strip()[1:-1])]
        is_row = re.fullmatch(r'\|.*\|', line.strip()) and len(cells) > 1
        line = re.sub(r'(?<!`)`([^`]+)`(?!`)', r'``\1``', line) if '>>>' not in line else line
        if not is_row:
            parts = re.split(r'(``.*?``)', line)  # outside of code, bars would be RST's
            out.append(''.join(part if part.startswith('``') else part.replace('|', r'\|') for part in parts))
        elif not all(re.fullmatch(r':?-+:?', cell) for cell in cells):
            if not out or not out[-1].startswith('     - '):
                out += ['', '.. list-table::', '   :header-rows: 1', '']
            cells = [re.sub(r'(?<!`)`([^`]+)`(?!`)', r'``\1``', cell) for cell in cells]
            out += [f'   {"*" if i == 0 else " "} - {cell}' for i, cell in enumerate(cells)]
    lines[:] = out


def setup(app):
    app.connect('autodoc-process-docstring', _from_markdown, priority=100)  # before napoleon
