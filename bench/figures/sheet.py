"""The contact sheet: every figure of a folder on one image, pixel for pixel."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import image
from numpy.typing import NDArray

COLUMNS, MARGIN = 2, 30


def contact_sheet(pngs: Sequence[Path], path: Path) -> None:
    """Pastes ``pngs``, all of the same width, onto white, row by row, and writes ``path`` whole or not at all."""
    pictures = [(255 * image.imread(png)[..., :3]).round().astype(np.uint8) for png in pngs]
    width = max(picture.shape[1] for picture in pictures)
    bands = [_band(pictures[start : start + COLUMNS], width) for start in range(0, len(pictures), COLUMNS)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.imsave(temporary, np.concatenate(bands), format="png")
    temporary.replace(path)


def _band(pictures: Sequence[NDArray[np.uint8]], width: int) -> NDArray[np.uint8]:
    height = max(picture.shape[0] for picture in pictures)
    band = np.full((height + MARGIN, COLUMNS * (width + MARGIN), 3), 255, dtype=np.uint8)
    for place, picture in enumerate(pictures):
        left = place * (width + MARGIN) + MARGIN // 2
        band[MARGIN // 2 : MARGIN // 2 + picture.shape[0], left : left + picture.shape[1]] = picture
    return band
