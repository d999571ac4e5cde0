import pytest

from pipelines.reports import units


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (7_506_432, "7.506 MB"), (3e15, "3000 TB")],
)
def test_sizes_have_decimal_units(num_bytes, text):
    assert units.size(num_bytes) == text


@pytest.mark.parametrize(
    ("operations", "text"),
    [(5e5, "0.5 MFLOP"), (1e9, "1 GFLOP"), (2.5e14, "250 TFLOP"), (1e21, "1e+03 EFLOP")],
)
def test_operations_have_decimal_units(operations, text):
    assert units.flops(operations) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.01, "36 s"), (0.5, "30 min"), (1.5, "90 min"), (2.26, "2.3 h")]
)
def test_a_time_has_the_unit_of_its_size(hours, text):
    assert units.duration(hours) == text


def test_a_long_value_is_cut_on_one_line():
    assert units.shorten("a\nb") == "a\\nb"
    assert len(units.shorten("x" * 100)) == 64
