"""Write executed notebooks as pages that load nothing when they are opened.

Style and pictures are inside, mathematics is MathML, what comes from elsewhere is cut; `page.html` forbids
the rest. Needs the extra `notebooks` (nbconvert, latex2mathml).
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
from jinja2 import Environment, FileSystemLoader, pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from emolib.images import data_uri, encode_webp

PAGE_LIMIT = 3_000_000  # bytes
SHOWN_TYPES = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg"]
SHOWN_TYPES += ["text/plain"]
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
LOADING = ("src", "srcset", "data", "poster", "background", "action")
# A bracket pair with an exponent or index: MathML hangs it on the closing one alone, which then stays small.
RAISED = re.compile(
    r"""(\\lVert(?:(?!\\lVert|\\right).)+?\\rVert | \\([bB]ig)\\\|.+?\\\2\\\| | \\([bB]ig)\(.+?\\\3\)
    | (?<![a-zA-Z])\((?:(?!\\right|\\[bB]ig)[^()])*\))(?=\s*[\^_])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Page:
    """A finished page: `html`, and one line for everything that had to be left out or shown as source."""

    html: str
    notes: tuple[str, ...]


def typeset(latex: str, display: str = "inline") -> str:
    """Turn LaTeX into MathML; `display` is "inline" or "block". ValueError: names what cannot be typeset."""
    source = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", latex.strip())
    # The converter makes \mathcal{N}, but not \mathcal N, a letter that every browser shows.
    source = re.sub(r"(\\math[a-z]+)\s+([A-Za-z0-9])", r"\1{\2}", source)
    source = RAISED.sub(r"{\1}", source)
    try:
        mathml = convert(source, display=display)
    except Exception as error:  # the converter raises many kinds, some of them bare
        raise ValueError(f"cannot typeset {latex.strip()!r}: {error or type(error).__name__}") from error
    mathml = mathml.replace(r">\|<", ">&#x02016;<")  # what it leaves of \big\|
    braces, unknown = re.sub(r"\\[{}\\]", "", source), re.search(r">(\\[^<]+)<", mathml)
    if unknown or braces.count("{") != braces.count("}"):  # the converter lets this pass
        raise ValueError(f"cannot typeset {unknown[1] if unknown else 'a lonely brace'} in {latex.strip()!r}")
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


def render_page(notebook: nbformat.NotebookNode, folder: Path, title: str) -> Page:
    """Write the page of an executed notebook; `folder` is where its relative picture paths start."""
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
        picture["src"] = embed(picture["src"], Path(folder))
    notes = exporter.notes + cut_loads(soup)
    for picture in soup.find_all("img", src=True):
        picture["src"] = shrink(picture["src"])
        if picture.get("alt", "No description").startswith("No description"):
            section = picture.find_previous(["h1", "h2", "h3"])
            picture["alt"] = f"figure: {section.get_text(strip=True)}" if section else "figure"
    page = TEMPLATES.get_template("page.html")
    return Page(page.render(title=title, style=build_style(), content=str(soup)), tuple(notes))


def build_style() -> str:
    """The style of every page, with colours of code for light and dark."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def cut_loads(soup: BeautifulSoup) -> list[str]:
    """Cut, in place, every element that loads something; a picture leaves its alternative text.

    Returns a line for each but badges, whose words say the same.
    What scripts and styles inside the page would load, the policy in `page.html` forbids."""
    notes = []
    for tag in soup.find_all(True):
        names = ("href", "xlink:href") if tag.name in ("link", "image", "use", "base") else LOADING
        outside = [tag[name] for name in names if not tag.get(name, "#").strip().startswith(("data:", "#"))]
        if not outside:
            continue
        badge = tag.name == "img" and tag.get("alt") and tag.find_parent("a")
        if not badge:
            notes.append(f"left out {tag.name} {outside[0]}")
        tag.replace_with(tag.get("alt") or "")
    return notes


def embed(source: str, folder: Path) -> str:
    """Turn the address of a picture beside the notebook into a data URI; any other address stays."""
    kinds = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".svg": "svg+xml"}
    path = folder / unquote(source)
    if ":" in source[:12] or path.suffix.lower() not in kinds or not path.is_file():
        return source
    return data_uri(path.read_bytes(), kinds[path.suffix.lower()])


def shrink(source: str) -> str:
    """Turn a data URI of a PNG or JPEG picture into WebP where smaller; without loss if that costs little."""
    head, _, encoded = source.partition(",")
    if head not in ("data:image/png;base64", "data:image/jpeg;base64"):
        return source
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        image = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    exact, close = encode_webp(image, lossless=True), encode_webp(image, 88)
    return min(data_uri(exact if len(exact) <= 1.3 * len(close) else close), source, key=len)


def find_title(notebook: nbformat.NotebookNode, default: str) -> str:
    """Find the first first-level heading, as plain text."""
    for cell in notebook.cells:
        heading = re.search(r"^#\s+(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if heading:
            return re.sub(r"[*_`$]", "", heading[1]).strip()
    return default


def find_cover(notebook: nbformat.NotebookNode, width: int = 560) -> str | None:
    """Find the lesson's picture (of a cell tagged "cover", else the first) as a small data URI."""
    tagged = [cell for cell in notebook.cells if "cover" in cell.metadata.get("tags", [])]
    for cell in tagged + notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            encoded = data.get("image/png") or data.get("image/jpeg")
            if encoded:
                with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
                    image = opened.convert("RGB")
                image.thumbnail((width, 4 * width))
                return data_uri(encode_webp(image))
    return None


def describe_cost(notebook: nbformat.NotebookNode) -> str:
    """Say in words how long the run took."""
    seconds = notebook.metadata.get("papermill", {}).get("duration") or 0.0
    return "under 0.1 min" if seconds < 6 else f"{seconds / 60:.1f} min"
