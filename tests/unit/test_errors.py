import sys

import pytest
from torch._utils import ExceptionWrapper

from lens_cache.errors import CorruptShardError, one_line


def test_an_error_is_one_line_and_cut():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("x" * 50), limit=10) == "x" * 7 + "..."


def test_an_error_of_a_loader_worker_is_its_own_line():
    """PyTorch puts the worker's whole stack trace into the message."""
    try:
        raise CorruptShardError("reading the shard s3://a/b: no such object; run this")
    except CorruptShardError:
        wrapped = ExceptionWrapper(sys.exc_info(), where="in DataLoader worker process 0")
    with pytest.raises(CorruptShardError) as caught:
        wrapped.reraise()
    assert "Traceback" in str(caught.value)
    assert one_line(caught.value) == "reading the shard s3://a/b: no such object; run this"
