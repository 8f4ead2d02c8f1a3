"""Frozen models over data: latents with captions, embeddings, codes. Pure generators; the callers read and write shards."""
