"""Embeddings of sounds for distances between sets: VGGish, CLAP, aisfx and YAMNet behind one interface, with a cache."""
