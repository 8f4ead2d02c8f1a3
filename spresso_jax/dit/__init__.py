"""The diffusion transformer: blocks, conditioning, the whole network. Knows no diffusion."""
