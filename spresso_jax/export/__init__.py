"""Trained models for others: the model card of an exported folder."""
