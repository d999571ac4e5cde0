import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.agent.routing import ROUTE_PROMPT, ROUTES, parse_route, route_question
from lens_cache.toy import requests


@pytest.mark.parametrize(
    ("answer", "route"),
    [
        ("segmentation", "segmentation"),
        (" Segmentation.", "segmentation"),
        ("Route: follow-up", "follow-up"),
        ("Follow up", "follow-up"),
        ("dialogue\nRequest: segmentation", "dialogue"),
        ("The route is dialog.", "dialogue"),
        ("segmentation or dialogue", None),
        ("", None),
        ("I do not know", None),
        ("unsegmented", None),
    ],
)
def test_a_route_is_read_from_the_first_line(answer, route):
    assert parse_route(answer) == route


@given(st.text())
def test_a_request_is_one_line_of_the_prompt_whatever_it_contains(request):
    text = route_question(request)
    lines = ROUTE_PROMPT.count("\n")
    assert text.count("\n") == lines
    assert text.endswith("\nRoute:")
    assert parse_route(request) in (None, *ROUTES)


def test_the_prompt_shows_every_route_and_the_world_knows_the_same():
    for route in ROUTES:
        assert f"\n- {route}: " in ROUTE_PROMPT
        assert f"\nRoute: {route}\n" in ROUTE_PROMPT
    assert requests.ROUTES == ROUTES
