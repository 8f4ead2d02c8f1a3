"""QINCo2, a neural residual quantizer of vectors: sizes, parameters as a plain tree, and pure functions of both.

This folder knows no audio and nothing of the rest of the package; `docs/quantizer.md` uses it alone. In the order of an
appendix:

    qinco.py            what a code means: the step network f_m, decoding, the training loss, the parameter tree
    assign.py           which code a vector gets: beam search with pre-selection, all rates from one search, use of codewords
    row_stream.py       vectors as a stream that is opened again for every pass, sharded or held
    row_statistics.py   what the vectors are: mean, scale, fitness for training, in one pass over a stream
    residual_kmeans.py  residual k-means over streams of vectors that need not fit in memory, on one device or many
    initialise.py       where a training starts: equal to the residual k-means, or as the reference does
    revival.py          new rows for codewords that died: real residuals, or the reference's noise
    schedule.py         the learning rate of the published recipe

With D the dimension, M steps of K codewords, L residual blocks of width H, embedding width E, A pre-selected candidates
and B beams (all fields of `Qinco`), y = (z - data_mean) / data_std:

    xhat_0 = 0,    xhat_m+1 = xhat_m + f_m(C_m[k_m], xhat_m),    z_q = data_std xhat_M + data_mean      Qinco.decode
    f_0(c, .) = c                                                                                       Qinco.step_output
    f_m(c, xhat):  h = P c;  h += Wh h + Wx xhat + b;  h += V_l relu(U_l h), l < L;  f_m = c + Q h
        P, Q are the identity when E = D; without the outer skip f_m = Q h is the first QINCo
    k_m:  A nearest rows of S_m to y - xhat_m for each of B beams, of which the B with the least
        |y - xhat_m - f_m(C_m[k], xhat_m)|^2 live on; the best after m steps is the m-codebook code     assign.encode
    loss = sum_m mean |xhat_m+1 - y|^2  +  sum_m>=1 mean |stop_gradient(xhat_m) + S_m[k_m] - y|^2       training_loss

Where each symbol lies in the tree; steps 1..M-1 are stacked on the first axis, absent parts have no leaf:

    data_mean, data_std [D]    first_codebook = C_0 [K, D]
    steps/codebook = C [M-1, K, D]            preselection = S [M-1, K, D]             in_proj = P, out_proj = Q
          concat_codeword = Wh                concat_reconstruction = Wx               concat_bias = b
          up = U [M-1, L, E, H]               down = V [M-1, L, H, E]

Source: QINCo2 (arXiv 2501.03078) sections 3 and 4; S-PRESSO 3.4. Foreign checkpoints: `spresso_jax.interop.qinco`.
"""
