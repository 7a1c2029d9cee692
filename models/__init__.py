"""Sequence layers behind one interface (models/mixer.py) and the language model that holds them."""
