"""A report of measured rows: one spec (spec.py), made from rows alone (build.py), rendered three ways. No torch here.

page.py: one HTML file without anything from outside. markdown.py: for the repository. workspace.py: a report of W&B.
"""
