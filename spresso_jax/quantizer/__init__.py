"""QINCo2 quantizer: the step network, the search for codes, the start from residual k-means."""
