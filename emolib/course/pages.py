"""Executed notebooks as self-contained pages.

A page loads nothing when it is opened: style and pictures are inside it, mathematics is MathML, scripts from
elsewhere are cut. Needs the extra `notebooks` (nbconvert, latex2mathml).
"""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

PAGE_LIMIT = 3_000_000  # bytes
SHOWN_TYPES = [
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "text/latex",
    "image/png",
    "image/jpeg",
    "text/plain",
]
REMOTE_STYLE = re.compile(r"""url\(\s*['"]?\s*(https?:)?//|@import""")
REMOTE_SCRIPT = re.compile(r"""\b(import|from|fetch|require|importScripts|src)\b[\s(=\[]*['"](https?:)?//""")
# A bracket pair with an exponent or index: MathML hangs it on the closing one alone, which then stays small.
RAISED = re.compile(
    r"""(\\lVert(?:(?!\\lVert|\\right).)+?\\rVert | \\([bB]ig)\\\|.+?\\\2\\\| | \\([bB]ig)\(.+?\\\3\)
    | (?<![a-zA-Z])\((?:(?!\\right|\\[bB]ig)[^()])*\))(?=\s*[\^_])""",
    re.VERBOSE,
)
FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Page:
    """A finished page: `html`, and one line for everything that had to be left out or shown as source."""

    html: str
    notes: tuple[str, ...]


def typeset(latex: str, display: str = "inline") -> str:
    """LaTeX as MathML; `display` is "inline" or "block". Raises ValueError naming what cannot be typeset."""
    source = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", latex.strip())
    # The converter makes \mathcal{N}, but not \mathcal N, a letter that every browser shows.
    source = re.sub(r"(\\math[a-z]+)\s+([A-Za-z0-9])", r"\1{\2}", source)
    source = RAISED.sub(r"{\1}", source)
    try:
        mathml = convert(source, display=display)
    except Exception as error:  # the converter raises many kinds, some of them bare
        raise ValueError(f"cannot typeset {latex.strip()!r}: {error or type(error).__name__}") from error
    braces = re.sub(r"\\[{}\\]", "", source)
    if braces.count("{") != braces.count("}"):  # the converter lets this pass
        raise ValueError(f"cannot typeset {latex.strip()!r}: a brace is missing")
    mathml = mathml.replace(r">\|<", ">&#x02016;<")  # what it leaves of \big\|
    unknown = re.search(r">(\\[^<]+)<", mathml)
    if unknown:
        raise ValueError(f"cannot typeset {unknown[1]} in {latex.strip()!r}")
    return mathml


class _Exporter(HTMLExporter):
    """nbconvert's bare template, with mathematics as MathML instead of a script that typesets it."""

    def __init__(self) -> None:
        config = Config(
            {
                "NbConvertBase": {"display_data_priority": SHOWN_TYPES},
                "CoalesceStreamsPreprocessor": {"enabled": True},
                "TagRemovePreprocessor": {
                    "enabled": True,
                    "remove_input_tags": {"hide-input"},
                    "remove_cell_tags": {"remove-cell"},
                },
            }
        )
        super().__init__(config=config, template_name="basic", exclude_anchor_links=True)
        self.log.setLevel("ERROR")  # else: one warning for every figure without alternative text
        self.notes: list[str] = []

    @pass_context
    def markdown2html(self, context, source):
        renderer = IPythonRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            exclude_anchor_links=True,
        )
        renderer.inline_math = lambda body: self.math(body, "inline")
        renderer.block_math = lambda body: self.math(body, "block")
        renderer.latex_environment = lambda name, body: self.math(
            f"\\begin{{{name}}}{body}\\end{{{name}}}", "block"
        )
        return MarkdownWithMath(renderer=renderer).render(source)

    def math(self, latex: str, display: str) -> str:
        try:
            return typeset(latex, display)
        except ValueError as error:
            self.notes.append(str(error))
            return f"<code>{html.escape(latex)}</code>"


def page(notebook: nbformat.NotebookNode, folder: Path, title: str) -> Page:
    """The page of an executed notebook; `folder` is where its relative picture paths start."""
    exporter = _Exporter()
    notebook.metadata.pop("widgets", None)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    soup = BeautifulSoup(body, "html.parser")
    for latex in soup.select(".output_latex"):
        markup = exporter.math(latex.get_text().strip().strip("$"), "block")
        latex.replace_with(BeautifulSoup(markup, "html.parser"))
    for stream in soup.select(".output_stderr"):
        if not stream.get_text().strip():  # a progress line that has wiped itself out
            stream.find_parent(class_="output_area").decompose()
    for picture in soup.find_all("img", src=True):
        picture["src"] = _inside(picture["src"], Path(folder))
    notes = exporter.notes + cut_loads(soup)
    for picture in soup.find_all("img", src=True):
        picture["src"] = smaller(picture["src"])
        if picture.get("alt", "No description").startswith("No description"):
            section = picture.find_previous(["h1", "h2", "h3"])
            picture["alt"] = f"figure: {section.get_text(strip=True)}" if section else "figure"
    back = '<nav><a href="index.html">All lessons</a></nav>'
    content = f"{back}\n<main>\n{soup}\n</main>\n{back}"
    return Page(FRAME.format(title=html.escape(title), style=stylesheet(), body=content), tuple(notes))


def stylesheet() -> str:
    """The style of every page, with colours of code for light and dark."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def loads(soup: BeautifulSoup) -> list[tuple]:
    """Every (element, attribute or None) through which opening the page would load what is not inside it."""
    found = []
    for tag in soup.find_all(True):
        for name in ("src", "srcset", "data", "poster", "background", "action"):
            if tag.get(name) and not tag[name].strip().lower().startswith("data:"):
                found.append((tag, name))
        if tag.name in ("link", "image", "use", "base"):
            found += [(tag, name) for name in ("href", "xlink:href") if tag.get(name) and tag[name][0] != "#"]
        if REMOTE_STYLE.search(tag.get("style", "")):
            found.append((tag, "style"))
        remote = {"style": REMOTE_STYLE, "script": REMOTE_SCRIPT}.get(tag.name)
        if remote and remote.search(tag.get_text()):
            found.append((tag, None))
    return found


def cut_loads(soup: BeautifulSoup) -> list[str]:
    """Take out, in place, what `loads` finds; a picture leaves its alternative text. A line for each."""
    notes = []
    for tag, name in loads(soup):
        if tag.decomposed or tag.parent is None:
            continue
        if tag.name == "img" and tag.get("alt") and tag.find_parent("a"):
            tag.replace_with(tag["alt"])  # a badge: its words say the same, no line needed
            continue
        notes.append(f"left out {tag.name} {tag[name] if name else 'with an import'}")
        if name == "style":
            del tag["style"]
        elif tag.name == "img":
            tag.replace_with(tag.get("alt") or "")
        else:
            tag.decompose()
    return notes


def _inside(source: str, folder: Path) -> str:
    """The address of a picture beside the notebook as a data URI; any other address as it is."""
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".svg": "svg+xml"}
    path = folder / unquote(source)
    if ":" in source[:12] or path.suffix.lower() not in kind or not path.is_file():
        return source
    return f"data:image/{kind[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def smaller(source: str) -> str:
    """A data URI of a PNG or JPEG picture as WebP where smaller; without loss if that costs little."""
    head, _, data = source.partition(",")
    if not re.match(r"data:image/(png|jpeg);base64$", head):
        return source
    raw = base64.b64decode(data)
    with Image.open(io.BytesIO(raw)) as opened:
        image = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    exact, close = _webp(image, lossless=True), _webp(image, quality=88)
    best = min((exact if len(exact) <= 1.3 * len(close) else close), raw, key=len)
    kind = head if best is raw else "data:image/webp;base64"
    return f"{kind},{base64.b64encode(best).decode()}"


def _webp(image: Image.Image, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **settings)
    return buffer.getvalue()


def title_of(notebook: nbformat.NotebookNode, default: str) -> str:
    """The first first-level heading, as plain text."""
    for cell in notebook.cells:
        heading = re.search(r"^#\s+(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if heading:
            return re.sub(r"[*_`$]", "", heading[1]).strip()
    return default


def first_figure(notebook: nbformat.NotebookNode, width: int = 560) -> str | None:
    """The lesson's picture as a small data URI: a cell's tagged "cover", else the first; None without any."""
    tagged = [cell for cell in notebook.cells if "cover" in cell.metadata.get("tags", [])]
    for cell in tagged + notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            encoded = data.get("image/png") or data.get("image/jpeg")
            if encoded:
                with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
                    image = opened.convert("RGB")
                image.thumbnail((width, 4 * width))
                return f"data:image/webp;base64,{base64.b64encode(_webp(image, quality=82)).decode()}"
    return None


def minutes(notebook: nbformat.NotebookNode) -> str:
    """How long the run took, in words."""
    seconds = notebook.metadata.get("papermill", {}).get("duration") or 0.0
    return "under 0.1 min" if seconds < 6 else f"{seconds / 60:.1f} min"
