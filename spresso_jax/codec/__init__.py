"""Sounds to codes to files and back, with one model folder."""
