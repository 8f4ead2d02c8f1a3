"""The tokenizer is deterministic, travels as a string and has tokens for everything."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.clap.tokenizer import Tokenizer, train_tokenizer

CAPTIONS = ["A dog barks in the distance", "Rain on a tin roof", "a dog growls", "heavy rain and thunder", "ein Hund"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, 300)


def test_same_captions_in_another_order_give_the_same_string(tokenizer):
    assert train_tokenizer(reversed(CAPTIONS), 300).to_json() == tokenizer.to_json()


def test_string_and_pickle_give_the_same_tokens(tokenizer):
    expected = tokenizer.encode("a dog in the rain", 12)
    for copy in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
        np.testing.assert_array_equal(copy.encode("a dog in the rain", 12), expected)


def test_ids_begin_with_start_end_with_end_and_are_padded(tokenizer):
    ids, mask = tokenizer.encode("a dog", 8)
    last = mask.sum() - 1
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (8,)
    assert ids[0] == 0 and ids[last] == 2 and (ids[last + 1 :] == 1).all() and not mask[last + 1 :].any()


def test_empty_caption_is_start_and_end(tokenizer):
    np.testing.assert_array_equal(tokenizer.encode("", 5)[0], [0, 2, 1, 1, 1])


def test_long_caption_is_cut_and_still_ends(tokenizer):
    ids, mask = tokenizer.encode("dog " * 100, 10)
    assert ids[-1] == 2 and mask.all()


def test_text_that_looks_like_a_special_token_is_text(tokenizer):
    ids, mask = tokenizer.encode("<s> </s> <pad>", 40)
    assert not np.isin(ids[mask][1:-1], [0, 1, 2]).any()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None), max_size=30))
def test_no_caption_fails(tokenizer, caption):
    ids, mask = tokenizer.encode(caption, 20)
    assert ids[0] == 0 and (ids < tokenizer.vocabulary).all() and mask[:2].all()


@settings(max_examples=40, deadline=None)
@given(st.text("abcdefg hijklm nopqrs tuvwxyz .,!", max_size=30))
def test_lower_case_text_survives_a_round_trip(tokenizer, caption):
    assert tokenizer.decode(tokenizer.encode(caption, 64)[0]) == caption


def test_vocabulary_is_kept_and_frequent_words_become_one_token(tokenizer):
    assert tokenizer.vocabulary <= 300
    assert train_tokenizer(["rain"] * 5, 300).encode("rain", 8)[1].sum() == 3
    assert train_tokenizer([], 259).vocabulary == 259


def test_errors_say_what_to_do(tokenizer):
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(CAPTIONS, 100)
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.from_json("{}")
    with pytest.raises(ValueError, match="must be 0, 1, 2"):
        swapped = json.loads(tokenizer.to_json())
        swapped["added_tokens"], swapped["model"]["vocab"] = [], {"a": 0}
        swapped["model"]["merges"] = []
        Tokenizer.from_json(json.dumps(swapped))
    with pytest.raises(ValueError, match="at least 2"):
        tokenizer.encode("dog", 1)
