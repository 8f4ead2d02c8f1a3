"""The docstring of the folder is its map: every file and every leaf of the tree, and none that is not there."""

import re
from pathlib import Path

import jax

import spresso_jax.quantizer
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.quantizer.qinco import Qinco


def test_map_names_every_file_and_every_leaf():
    text = spresso_jax.quantizer.__doc__
    files = {path.name for path in Path(spresso_jax.quantizer.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^    (\w+\.py) ", text, re.MULTILINE)) == files
    whole = Qinco(
        codebooks=2, codewords=2, hidden_width=1, blocks=1, preselect=1, beam=1, dimension=2, embedding_width=3
    )
    leaves = flatten(jax.eval_shape(whole.init, jax.random.key(0)))
    tree = text[text.index("Where each symbol") :]
    assert not [name for name in leaves if not re.search(rf"\b{name.removeprefix('steps/')}\b", tree)]
