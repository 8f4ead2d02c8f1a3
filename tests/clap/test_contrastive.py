"""The contrastive loss and retrieval figures against closed forms."""

import math

import jax
import numpy as np
import pytest

from spresso_jax.clap.contrastive import contrastive_loss, retrieval_recall, shared_captions


def test_loss_of_uninformative_embeddings_is_log_batch():
    same = np.tile([1.0, 0.0], (8, 1)).astype(np.float32)
    assert contrastive_loss(same, same, 14.3) == pytest.approx(math.log(8), rel=1e-6)


def test_loss_of_orthogonal_pairs_has_its_closed_form():
    rows = np.eye(4, dtype=np.float32)
    assert contrastive_loss(rows, rows, 5.0) == pytest.approx(math.log(1 + 3 * math.exp(-5.0)), rel=1e-5)


def test_loss_is_symmetric_and_the_scale_saturates_at_100():
    keys = jax.random.split(jax.random.key(0))
    audio, text = (jax.random.normal(key, (6, 5)) for key in keys)
    audio, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (audio, text))
    assert contrastive_loss(audio, text, 10.0) == pytest.approx(float(contrastive_loss(text, audio, 10.0)), rel=1e-6)
    assert contrastive_loss(audio, text, 1e4) == contrastive_loss(audio, text, 100.0)


def test_recall_counts_partners_among_the_nearest_both_ways():
    audio = np.eye(4, dtype=np.float32)
    text = audio[[1, 0, 2, 3]]
    recalls = retrieval_recall(audio, text, ks=(1, 2))
    assert recalls["audio_to_text_recall@1"] == recalls["text_to_audio_recall@1"] == 0.5
    lopsided = np.array([[1.0, 0.0], [0.8, 0.6]], np.float32)
    recalls = retrieval_recall(np.eye(2, dtype=np.float32), lopsided, ks=(1,))
    assert (recalls["audio_to_text_recall@1"], recalls["text_to_audio_recall@1"]) == (1.0, 0.5)


def test_equal_embeddings_do_not_score_as_perfect():
    same = np.ones((9, 3), np.float32) / math.sqrt(3)
    assert retrieval_recall(same, same, ks=(1,))["audio_to_text_recall@1"] == 0.0


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        contrastive_loss(np.zeros((2, 3)), np.zeros((3, 3)), 1.0)


def test_clips_with_the_same_caption_are_neither_negatives_nor_rivals():
    tokens = np.array([[5, 6, 9], [5, 6, 2], [5, 7, 1]])
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0]], bool)
    shared = np.asarray(shared_captions(tokens, mask))
    assert shared.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    audio = np.eye(3, dtype=np.float32)
    text = audio[[1, 0, 2]]  # the first two would be wrong if they were rivals
    assert contrastive_loss(audio, text, 5.0, shared) == pytest.approx(2 / 3 * math.log(2), abs=0.01)
    assert retrieval_recall(audio, text, ks=(1,))["audio_to_text_recall@1"] == pytest.approx(1 / 3)
    assert retrieval_recall(audio, audio, ks=(1,), shared=shared)["text_to_audio_recall@1"] == 1.0
    gradient = jax.grad(lambda a: contrastive_loss(a, text, 5.0, shared))(audio)
    assert np.isfinite(gradient).all()
