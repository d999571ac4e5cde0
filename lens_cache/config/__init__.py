"""Every setting of both phases: typed, strict, with the paper's values as defaults."""
