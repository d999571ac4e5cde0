import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from lens_cache.datasets.lisa.plain_pickle import read_plain_pickle
from lens_cache.errors import DatasetError
from tests.support.lisa_refer_world import python2_pickle, ref

PLAIN = [
    {**ref(7, 1, 2**40, "testAB", "the man", "x" * 300), "more": (1.5, True, None, -3, {"a": []})}
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "refs(unc).p"


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_python_3(path, protocol):
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert read_plain_pickle(path) == PLAIN


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_texts_of_python_2_are_texts(path, protocol):
    path.write_bytes(python2_pickle(PLAIN, protocol))
    assert read_plain_pickle(path) == PLAIN


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_texts_of_python_2_beyond_ascii(path, encoding):
    path.write_bytes(python2_pickle(["café", "the man"], 2, encoding))
    assert read_plain_pickle(path) == ["café", "the man"]


def test_bytes_and_sets_are_plain(path):
    value = [b"\x00\xff", {1, 2}, frozenset("a"), bytearray(b"z")]
    path.write_bytes(pickle.dumps(value, 5))
    assert read_plain_pickle(path) == value


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


GADGETS = {
    "posix.system": lambda marker: Call(os.system, f"touch {marker}"),
    "posix.mkdir": lambda marker: Call(os.mkdir, str(marker)),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"),
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "getattr": lambda marker: Call(getattr, "", "join"),
    "OrderedDict": lambda marker: OrderedDict(a=1),
    "numpy": lambda marker: np.int64(3),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", GADGETS)
def test_whatever_asks_for_a_name_is_refused_and_nothing_runs(path, tmp_path, name, protocol):
    marker = tmp_path / "harm"
    data = pickle.dumps([PLAIN, GADGETS[name](marker)], protocol)
    path.write_bytes(data)
    with pytest.raises(DatasetError) as error:
        read_plain_pickle(path)
    assert name in str(error.value)
    assert str(path) in str(error.value)
    assert "nothing was executed" in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def test_the_gadgets_do_harm_elsewhere(tmp_path):
    for name in ("posix.system", "posix.mkdir", "exec"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(GADGETS[name](marker)))
        assert marker.exists()


@pytest.mark.parametrize("opcodes", [b"cposix\nsystem\n", b"(S'true'\niposix\nsystem\n"])
def test_the_oldest_opcodes_are_refused_too(path, opcodes):
    path.write_bytes(opcodes + b".")
    with pytest.raises(DatasetError, match=r"imports posix\.system"):
        read_plain_pickle(path)


def test_a_name_put_together_from_texts_on_the_stack_is_refused(path):
    path.write_bytes(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    with pytest.raises(DatasetError, match=r"imports posix\.system"):
        read_plain_pickle(path)


BROKEN = {
    "empty": b"",
    "text": b"[1, 2, 3]",
    "cut": pickle.dumps(PLAIN, 4)[:-9],
    "persistent": b"Pabc\n.",
    "extension": b"\x80\x02\x82\x01.",
    "memo": b"\x80\x02h\x07.",
    "call a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "state of a list": b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.",
    "length": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_pickle_is_one_line(path, name):
    path.write_bytes(BROKEN[name])
    expected = "not a complete pickle of plain data" if BROKEN[name] else "the file is empty"
    with pytest.raises(DatasetError, match=expected) as error:
        read_plain_pickle(path)
    assert "\n" not in str(error.value)


def test_a_missing_and_an_absurd_file(path):
    with pytest.raises(DatasetError, match="No such file"):
        read_plain_pickle(path)
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(DatasetError, match="expected at most"):
        read_plain_pickle(path)
