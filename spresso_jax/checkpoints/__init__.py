"""Checkpoints of running trainings, folders of trained models, and their fingerprints. Knows no model."""
