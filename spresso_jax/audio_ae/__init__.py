"""AudioAE: sound at 48 kHz to 128 latents at 100 frames a second and back; its discriminators, losses and statistics."""
