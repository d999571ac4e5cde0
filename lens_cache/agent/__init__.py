"""Algorithm S1 of the paper: an agent that routes, segments, talks and follows up."""

from lens_cache.agent.agent import LensAgent, Reply
from lens_cache.agent.endpoint import ChatEndpoint

__all__ = ["ChatEndpoint", "LensAgent", "Reply"]
