"""Grids of trainings: points by name, what has been done of them, and one table and picture of what they gave."""
