"""Scores of masks, and the baselines to read them against."""
