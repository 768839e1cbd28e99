"""Landmark localization methods behind one contract, see `method.py`."""
