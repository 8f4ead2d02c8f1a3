"""Training of any model: the Stage protocol, one update, one loop. Knows no model."""
