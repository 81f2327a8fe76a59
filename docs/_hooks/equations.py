"""Renders mathematics when the site is built, and links equation numbers to the equations.

- LaTeX (`$...$`, `$$...$$`, also in docstrings) becomes MathML, which browsers draw by themselves: the site needs no
  script from elsewhere and works without a network.
- `\\tag{RF.3}` makes an equation that can be linked to; `(RF.3)` in any prose, also in docstrings, becomes that link. A
  citation of an equation that does not exist is a warning, and so an error in a strict build.
"""

import html
import logging
import re
from pathlib import Path

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.equations")

_MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_TAG = re.compile(r"\\tag\{([A-Z]+\.\d+)\}")
_SKIP = re.compile(
    r"(<(?:a|code|pre|math|h1|script|style)\b.*?</(?:a|code|pre|math|h1|script|style)>|<[^>]*>)", re.DOTALL
)
_CITATION = re.compile(r"\(((?:RF|MS|SG|SL|PL|PR|K|PA|DL)\.\d+)\)")

# Letters that LaTeX writes with an alphabet and MathML Core wants as characters of their own.
_ALPHABETS = {
    "script": {
        "L": "\u2112",
        "A": "\U0001d49c",
        "E": "\u2130",
        "O": "\U0001d4aa",
        "N": "\U0001d4a9",
        "K": "\U0001d4a6",
        "P": "\U0001d4ab",
        "Q": "\U0001d4ac",
    },
    "double-struck": {"R": "\u211d", "C": "\u2102", "E": "\U0001d53c"},
}
_STYLED = re.compile(r'<mi mathvariant="(script|double-struck)">(\w)</mi>')


def on_files(files, config):
    """Find every numbered equation once, before pages are rendered."""
    labels: dict[str, str] = {}
    for file in files.documentation_pages():
        for label in _TAG.findall(Path(file.abs_src_path).read_text(encoding="utf-8")):
            if label in labels:
                log.warning("equation (%s) is defined twice", label)
            labels[label] = file.src_uri
    config["equation_labels"] = labels
    return files


def on_page_content(content, page, config, files):
    """Turn a rendered page's LaTeX into MathML and its citations into links."""
    content = _MATH.sub(lambda m: _render(html.unescape(m[2]), m[1] == "div", page.file.src_uri), content)
    labels = config["equation_labels"]

    def link(match: re.Match) -> str:
        label = match[1]
        if label not in labels:
            log.warning("%s cites equation (%s), which does not exist", page.file.src_uri, label)
            return match[0]
        target = files.get_file_from_path(labels[label])
        place = "" if target is page.file else target.url_relative_to(page.file)
        return f'<a class="equation-citation" href="{place}#eq-{label}">({label})</a>'

    parts = _SKIP.split(content)
    return "".join(part if _SKIP.fullmatch(part) else _CITATION.sub(link, part) for part in parts)


def _render(source: str, display: bool, where: str) -> str:
    tag = _TAG.search(source)
    source = _TAG.sub("", source).replace("{aligned}", "{align*}")
    try:
        math = convert(source.strip(), display="block" if display else "inline")
    except Exception as error:  # the library raises many kinds; any of them is a mistake in the page
        log.warning("%s: cannot render %r: %s", where, source, error)
        return html.escape(source)
    if "\\" in math:
        log.warning("%s: unknown LaTeX command in %r", where, source)
    math = _STYLED.sub(lambda m: f"<mi>{_letter(m[1], m[2], where)}</mi>", math).replace(
        "<mi>&#x0007E;</mi>", "<mo>&#x223C;</mo>"
    )
    if not display:
        return math
    if tag is None:
        return f'<div class="equation">{math}</div>'
    return f'<div class="equation" id="eq-{tag[1]}">{math}<a class="equation-number" href="#eq-{tag[1]}">({tag[1]})</a></div>'


def _letter(alphabet: str, letter: str, where: str) -> str:
    if letter not in _ALPHABETS[alphabet]:
        log.warning("%s: no %s letter %r; add it to docs/_hooks/equations.py", where, alphabet, letter)
    return _ALPHABETS[alphabet].get(letter, letter)
