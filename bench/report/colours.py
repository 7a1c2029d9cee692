"""Colours of figures as CSS variables: what was drawn for white paper stays readable on a light and on a dark page."""

import re

PAPER = {"light": "ffffff", "dark": "14171b"}
# What is no model's colour takes the page's own.
NEUTRAL = {"ffffff": "paper", "000000": "ink", "222222": "ink", "666666": "quiet", "dddddd": "line"}
# Contrast of text that WCAG 2.2 calls AA (1.4.3), and of graphics (1.4.11).
TEXT, GRAPHIC = 4.5, 3.0
_USED = re.compile(r"var\(--([ct])-([0-9a-f]{6})\)")


def variables(html: str) -> str:
    """Definitions of all ``--c-rrggbb`` (graphics) and ``--t-rrggbb`` (texts) that ``html`` uses, for either theme."""
    used = sorted(set(_USED.findall(html)))
    return "".join(f"--{kind}-{colour}:{_shown(colour, TEXT if kind == 't' else GRAPHIC)};" for kind, colour in used)


def _shown(colour: str, least: float) -> str:
    if colour in NEUTRAL:
        return f"var(--{NEUTRAL[colour]})"
    # graphics on white are as on paper, where markers tell models apart too
    light = colour if least == GRAPHIC else readable(colour, "light", least)
    return f"light-dark(#{light}, #{readable(colour, 'dark', least)})"


def readable(colour: str, theme: str, least: float) -> str:
    """The colour, moved towards black or white in small steps until its contrast to the paper is enough."""
    end, rgb = (0 if theme == "light" else 255), _rgb(colour)
    steps = ("".join(f"{round(part + (end - part) * step / 20):02x}" for part in rgb) for step in range(21))
    return next(mixed for mixed in steps if contrast(mixed, PAPER[theme]) >= least)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours rrggbb (WCAG 2.2, relative luminance)."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in _rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (0, 2, 4))
