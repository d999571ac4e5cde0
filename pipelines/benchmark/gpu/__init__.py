"""`lens-cache benchmark gpu`: what a GPU does with both phases at full size, in minutes."""
