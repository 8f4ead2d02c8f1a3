"""Signal processing without parameters: STFT, mel bands, loudness. Arrays in, arrays out."""
