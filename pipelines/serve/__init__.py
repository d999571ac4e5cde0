"""A trained head behind HTTP: an API, a page, and an annotation backend."""
