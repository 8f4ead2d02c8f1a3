"""The paper's tables and figures beside one's own: what was published, what an evaluation measured, what may be compared."""
