"""The mathematics of diffusion: EDM preconditioning and loss, samplers, guidance, averages. Knows no network."""
