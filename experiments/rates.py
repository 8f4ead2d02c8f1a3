"""The operating points of the paper in one table; every experiment with a frame rate reads it.

Columns
  downsample          t, latent frames (100 Hz) per compressed frame                       S-PRESSO 3.3, Table 1
  encoder_depth       blocks of g_psi                                                      S-PRESSO 4.2.2
  codebook_bits       log2 K; 12 bits for t = 20 and 100, 10 bits otherwise                S-PRESSO 4.2.2
  train_codebooks     M of the quantizer; the paper says 20, Table 2 needs 25              decisions 18, 18a
  finetune_codebooks  M of step 3: about 100 bits a frame                                  S-PRESSO 4.2.2
  decode_codebooks    the M that the tables and figure 4 decode; the first is the default  S-PRESSO Table 2, Fig. 4
"""

RATES = {
    "25hz": dict(
        frame_rate=25, downsample=4, encoder_depth=6, codebook_bits=10,
        train_codebooks=25, finetune_codebooks=10, decode_codebooks=(10, 1, 2, 4, 6, 8, 12, 16, 20, 25),
    ),
    "11hz": dict(
        frame_rate=11, downsample=9, encoder_depth=10, codebook_bits=10,
        train_codebooks=25, finetune_codebooks=10, decode_codebooks=(12, 1, 2, 4, 6, 8, 10, 16, 20, 25),
    ),
    "5hz": dict(
        frame_rate=5, downsample=20, encoder_depth=12, codebook_bits=12,
        train_codebooks=25, finetune_codebooks=8, decode_codebooks=(8, 1, 2, 4, 6, 12, 16, 20, 25),
    ),
    "1hz": dict(
        frame_rate=1, downsample=100, encoder_depth=12, codebook_bits=12,
        train_codebooks=25, finetune_codebooks=8, decode_codebooks=(8, 1, 2, 4, 6, 12, 16, 20, 25),
    ),
}  # fmt: skip


def rate_of(name: str) -> dict:
    """The row `name` ("25hz", "11hz", "5hz" or "1hz").

    Raises:
      ValueError: if there is no such row.
    """
    if name not in RATES:
        raise ValueError(f"unknown rate {name!r}: choose one of {', '.join(RATES)}")
    return dict(RATES[name])
