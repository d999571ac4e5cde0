import pytest

from lens_cache.features.sizes import ceil_div, round_up


@pytest.mark.parametrize(
    ("size", "step", "steps", "rounded"),
    [(0, 4, 0, 0), (1, 4, 1, 4), (4, 4, 1, 4), (5, 4, 2, 8), (2**60 + 1, 2, 2**59 + 1, 2**60 + 2)],
)
def test_the_smallest_multiple_that_covers_a_size(size, step, steps, rounded):
    assert ceil_div(size, step) == steps
    assert round_up(size, step) == rounded
