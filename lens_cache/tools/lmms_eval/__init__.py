"""lens-cache in lmms-eval: a model plug-in, and two tasks that score masks."""
