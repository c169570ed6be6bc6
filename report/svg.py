"""A figure as SVG within the page: text stays text, and the colours are those of the page, light or dark.

The page's policy allows no inline style, so that each style becomes attributes.
"""

import io
import re
from xml.etree import ElementTree

from report.plots import COLOURS, INK, QUIET, RULE, UNDATED, styled

SPACE, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
COLOUR_NAMES = {INK: "ink", QUIET: "quiet", RULE: "rule", **{colour: f"c{k}" for k, colour in enumerate(COLOURS)}}
KEPT = {"d", "x", "y", "fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray",
        "stroke-linecap", "opacity", "font-size", "font-weight", "text-anchor"}  # fmt: skip


@styled
def page_svg(figure, name, description):
    """The figure as the text of an <svg> element; the same figure always gives the same text.

    Args:
        figure: a matplotlib figure without images, of the colours of plots.py.
        name: unlike that of the page's other figures.
        description: the figure in words, for people who do not see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=UNDATED["svg"], transparent=True)
    drawn = ElementTree.fromstring(file.getvalue())
    attributes = {"viewBox": rounded(drawn.get("viewBox")), "role": "img", "aria-label": description}
    page = ElementTree.Element("svg", {**attributes, "stroke-linejoin": "round"})
    symbols = ElementTree.SubElement(page, "defs")
    defined = {path for group in drawn.iter(f"{SPACE}defs") for path in group}
    for element in drawn.iter():
        tag = element.tag.removeprefix(SPACE)
        if tag in ("path", "use", "text") and element.get("style") != "fill: none":
            copied = ElementTree.SubElement(symbols if element in defined else page, tag, plain_attributes(element))
            copied.text = (element.text or "").strip()
            if element in defined:
                copied.set("id", f"{name}-{element.get('id')}")
            elif tag == "use":
                copied.set("href", f"#{name}-{element.get(LINK).removeprefix('#')}")
    return ElementTree.tostring(page, encoding="unicode")


def plain_attributes(element):
    """The attributes of one of matplotlib's elements, and the entries of its style as attributes."""
    style = (entry.split(":", 1) for entry in element.get("style", "").split(";") if entry)
    found = {**element.attrib, **{name.strip(): value.strip() for name, value in style}}
    shown = {name: COLOUR_NAMES.get(value) for name, value in found.items()}
    plain = {k: f"var(--{shown[k]})" if shown[k] else v for k, v in found.items() if k in KEPT}
    plain |= {k: rounded(v) for k, v in plain.items() if k in ("d", "x", "y")}
    if not found.get("transform", "rotate(-0 ").startswith("rotate(-0 "):
        plain["transform"] = rounded(found["transform"])
    return plain


def rounded(text):
    """Its numbers to one tenth of a point, on one line."""
    return " ".join(re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), text).split())
