"""Comparison of what environments return, to the bit and with types."""

import numpy as np


def assert_same(ours, theirs, where="result"):
    """The same types, keys, shapes and bits all the way down."""
    assert type(ours) is type(theirs), (where, type(ours), type(theirs))
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        if theirs.dtype == object:
            assert_same(list(ours), list(theirs), where)
        else:
            assert ours.tobytes() == theirs.tobytes(), (where, ours - theirs)
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert ours == theirs, where
