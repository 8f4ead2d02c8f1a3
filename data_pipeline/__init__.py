"""Sound files on disk -> batches of numpy arrays.

Knows nothing of `spresso_jax` and never touches a device. Each module is one step of the way:
`catalogues` (files with captions) -> `manifest` (rows with ids and splits) -> `ingest` (shards) -> `loader` (batches).
"""
