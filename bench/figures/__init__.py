"""Figures: pure functions of rows. They need neither a GPU nor a checkpoint nor a network nor torch.

runs → frame.py (one table) → data.py (what to draw, what is missing, what failed) → lines.py (rows to curves with intervals)
→ one file per figure (draw), set on a page (page.py) in one style (style.py) → index.py (files, contact sheet, index.json).
"""
