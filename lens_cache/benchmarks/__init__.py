"""Benchmarks of general ability: their files, prompts and scores."""
