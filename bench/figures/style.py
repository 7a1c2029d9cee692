"""One look per model in every figure, the shared rcParams, and saving. Colours: Okabe and Ito, for colour-blind readers too."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

P = ParamSpec("P")
T = TypeVar("T")

SERIES = "series:"
INK, QUIET, ALARM = "#222222", "#666666", "#A40000"
FONT_PT, LEGEND_PT = 8.0, 8.5
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": FONT_PT,
    "axes.titlesize": FONT_PT + 1,
    "axes.labelsize": FONT_PT + 1,
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "legend.fontsize": LEGEND_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "lines.markersize": 4.5,
    "pdf.fonttype": 3,  # subsetting TrueType fonts (42) would take most of the time
    "axes.unicode_minus": True,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "path.simplify": True,
}
Dashes = Literal["-", "--", ":"] | tuple[int, tuple[float, ...]]
# Lines of one model that differ in some coordinate; the legend says in which.
VARIANT_DASHES: tuple[Dashes, ...] = ("-", (0, (6, 1.5)), (0, (4, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1.5, 0.8)))


@dataclass(frozen=True)
class Look:
    """How one line is drawn. ``order`` is its place in legends; ``published`` marks rows that are not one's own.

    series: the model that it shows, "" where it is none; ``gid`` names it in an SVG, where a reader may hide it.
    """

    label: str
    colour: str
    marker: str
    order: int
    dashes: Dashes = "-"
    hollow: bool = False
    published: bool = False
    series: str = ""

    @property
    def gid(self) -> str | None:
        """What an SVG calls all that shows this model."""
        return f"{SERIES}{self.series}" if self.series else None

    @property
    def kwargs(self) -> dict[str, Any]:
        """For ``Axes.plot`` and ``Axes.errorbar``."""
        face = "white" if self.hollow else self.colour
        under = {"markersize": 7, "zorder": 2.5} if self.published else {"zorder": 3}  # a ring around one's own marker
        line = {"color": self.colour, "marker": self.marker, "linestyle": self.dashes, "markerfacecolor": face}
        return line | under | {"gid": self.gid}


_KNOWN = {
    "ttt_linear": Look("TTT-Linear", "#0072B2", "o", 0),
    "ttt_mlp": Look("TTT-MLP", "#D55E00", "s", 1),
    "transformer": Look("Transformer", "#000000", "^", 2),
    "mamba": Look("Mamba", "#009E73", "D", 3),
    "transformer_finetune": Look("Transformer finetune", "#7A7A7A", "<", 2),
    "mamba2": Look("Mamba-2", "#CC79A7", "v", 4),
    "linear_attention": Look("linear attention", "#E69F00", "P", 10),
    "linear_attention_improved": Look("linear attention, improved", "#56B4E9", "X", 11),
    "learned_start": Look("batch descent, learned W₀", "#7A5230", "p", 12),
    "inner_norm": Look("batch descent, inner norm", "#882255", "h", 13),
    "mini_batch": Look("mini-batches, fixed η", "#555555", "*", 14),
}
_OTHER_COLOURS, _OTHER_MARKERS = ("#E69F00", "#56B4E9", "#7A5230", "#882255"), ("P", "X", "p", "h", "*")


def series_name(model: str, backbone: str) -> str:
    """The model as conf/model calls it: a TTT layer with the Transformer backbone ends in ``_t``."""
    return f"{model}_t" if model.startswith("ttt_") and backbone == "transformer" else model


def look_of(series: str, published: bool = False, variant: int = 0) -> Look:
    """The look of a series; it depends on the name alone, so it is the same in every figure.

    (T), the Transformer backbone: hollow and dashed. published: hollow and dotted. variant: other dashes.
    """
    if series.startswith("ttt_") and series.endswith("_t"):
        base = look_of(series.removesuffix("_t"))
        look = replace(base, label=f"{base.label} (T)", order=base.order + 100, dashes="--", hollow=True)
    else:
        look = _KNOWN.get(series) or _other(series)
    look = replace(look, series=series)
    if variant:
        look = replace(look, dashes=VARIANT_DASHES[variant % len(VARIANT_DASHES)])
    if published:
        look = replace(
            look,
            label=f"{look.label} (published)",
            order=look.order + 1000,
            dashes=":",
            hollow=True,
            published=True,
        )
    return look


def _other(series: str) -> Look:
    digest = hashlib.sha256(series.encode()).digest()
    colour, marker = _OTHER_COLOURS[digest[0] % len(_OTHER_COLOURS)], _OTHER_MARKERS[digest[1] % len(_OTHER_MARKERS)]
    return Look(series, colour, marker, 10 + digest[2] % 80)


def width_in(text: str, size_pt: float = FONT_PT, weight: str = "normal") -> float:
    """Width of a text on the page, inches, with a little to spare."""
    font = FontProperties(family=RC["font.family"], size=size_pt, weight=weight)
    width_pt, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return 1.02 * float(width_pt) / 72


def digits(value: float, precision: int = 3) -> str:
    """A number for people: 0.003, 9.31, 7.4e11."""
    mantissa, _, exponent = f"{value:.{precision}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Runs a drawing function under ``RC`` and puts the caller's rcParams back."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return inside


@styled
def save(figure: Figure, folder: Path, name: str) -> tuple[str, str]:
    """Writes NAME.png (150 dpi) and NAME.pdf, each whole or not at all and with the same bytes every time. The file names."""
    FigureCanvasAgg(figure)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        figure.savefig(temporary, format=kind, metadata=metadata)
        temporary.replace(folder / f"{name}.{kind}")
    return f"{name}.png", f"{name}.pdf"
