"""Scores submissions against hidden references; never imports torch."""
