"""A figure inside a report: as an SVG that takes the page's colours and hides the models that a reader hides, and as a PNG.

Title, captions and footer are left out: the report sets them as text. The same figure gives the same bytes every time.
"""

import io
import re
from hashlib import sha256
from html import escape

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from bench.figures.page import Sheet
from bench.figures.style import RC, SERIES

DPI = 110
# Lines with more points than this become an image inside the SVG.
MANY = 2000
METADATA = {"svg": {"Date": None}, "png": {"Software": None}}
# Texts are text; what DejaVu Sans is measured with is close to Verdana, which is everywhere but on Linux, where DejaVu is.
FONTS = "'DejaVu Sans', Verdana, sans-serif"
_HEAD = re.compile(r'^.*?<svg [^>]*viewBox="([^"]*)"[^>]*>.*?</metadata>', re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_UPRIGHT = re.compile(r' transform="rotate\(-?0(?:\.0+)? [^"]*\)"')
_PLACES = re.compile(r'(?<= )(d|x|y|transform)="([^"]*)"')
_FRACTION = re.compile(r"-?\d+\.\d+")
_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]*)')
_ID = re.compile(r' id="([^"]*)"')
_INLINE = re.compile(r' style="([^"]*)"')
_MARKER = re.compile(r'<path id="([^"]*)"[^>]* class="([^"]*)"/>')
_GROUP = re.compile(r"</?g\b[^>]*>")


def picture(sheet: Sheet, kind: str, name: str) -> bytes:
    """Panels and legend as ``kind``, svg or png; ``name`` seeds the ids of an SVG."""
    texts, (low, high) = [text for text in sheet.texts if text.get_visible()], sheet.body_in
    many = [line for ax in sheet.axes for line in ax.lines if len(line.get_xdata()) > MANY]  # type: ignore[arg-type]
    file = io.BytesIO()
    FigureCanvasAgg(sheet)
    for line in many:
        line.set_rasterized(True)
    for text in texts:
        text.set_visible(False)
    with rc_context({**RC, "svg.fonttype": "none", "svg.hashsalt": name, "savefig.dpi": DPI}):
        box = Bbox([[0, low], [sheet.get_figwidth(), high]])
        sheet.savefig(file, format=kind, bbox_inches=box, metadata=METADATA[kind])
    for text in texts:
        text.set_visible(True)
    return file.getvalue()


def svg(sheet: Sheet, key: str, alt: str) -> str:
    """An ``<svg>`` element. key: unique in the page, makes its ids so. alt: its name for those who do not see it.

    A colour #rrggbb becomes ``var(--c-rrggbb)``, of a text ``var(--t-rrggbb)``, which the page defines. What shows a model has
    the attribute ``data-series``.
    """
    whole = picture(sheet, "svg", key).decode()
    head = _HEAD.match(whole)
    assert head is not None, "matplotlib writes an SVG's head in another way now"
    body = _UPRIGHT.sub("", _STYLE.sub("", whole[head.end() :], count=1))
    body = _PLACES.sub(lambda found: f'{found[1]}="{_rounded(found[2])}"', body)
    body = re.sub(r'<text style="[^"]*"', lambda found: _COLOUR.sub(r"var(--t-\1)", found[0]), body)
    body = _COLOUR.sub(r"var(--c-\1)", body).replace("font-family: 'DejaVu Sans'", f"font-family: {FONTS}")
    words = escape(alt, quote=True)
    start = f'<svg class="figure" role="img" aria-label="{words}" viewBox="{head[1]}">'
    named = re.sub(r">\s+<", "><", _named(body.replace("xlink:href", "href"), key)).strip()
    return start + _ungrouped(_unrepeated(_styled_once(named)))


def _styled_once(body: str) -> str:
    """Each style is written once, as a class that is named by what it says: few styles, repeated, are half of a figure."""
    names = {style: "s" + sha256(style.encode()).hexdigest()[:5] for style in _INLINE.findall(body)}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    classed = _INLINE.sub(lambda found: f' class="{names[found[1]]}"', body)
    return f"<style>{rules}</style>{classed}"


def _unrepeated(body: str) -> str:
    """A marker's class is that of its path, which is enough."""
    for name, style in _MARKER.findall(body):
        body = re.sub(rf'(<use href="#{name}"[^>]*) class="{style}"', r"\1", body)
    return body


def _ungrouped(body: str) -> str:
    """Without the groups that say or hold nothing."""
    kept: list[bool] = []

    def without(found: re.Match[str]) -> str:
        if found[0].endswith("/>"):
            return ""
        if found[0].startswith("<g"):
            kept.append(found[0] != "<g>")
            return found[0] if kept[-1] else ""
        return found[0] if kept.pop() else ""

    return _GROUP.sub(without, body)


def _rounded(text: str) -> str:
    """Hundredths of a point are enough, and half the bytes; a path's letters need no spaces."""
    short = _FRACTION.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    return re.sub(r"\s*\b([MLQCz])\b\s*", r"\1", " ".join(short.split()))


def _named(body: str, key: str) -> str:
    """Ids that are referred to become short, and differ by ``key``; those of models become attributes; the others go."""
    wanted = {name: "i" + sha256(f"{key} {name}".encode()).hexdigest()[:6] for _, name in _REFERENCE.findall(body)}

    def renamed(found: re.Match[str]) -> str:
        if found[1].startswith(SERIES):
            return f' data-series="{found[1].removeprefix(SERIES)}"'
        return f' id="{wanted[found[1]]}"' if found[1] in wanted else ""

    return _REFERENCE.sub(lambda found: found[1] + wanted[found[2]], _ID.sub(renamed, body))
