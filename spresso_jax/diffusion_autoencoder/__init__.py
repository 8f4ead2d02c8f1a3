"""g_psi, f_phi and the DiT conditioned on them, as one thing."""
