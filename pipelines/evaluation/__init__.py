"""Commands that measure: evaluate, segment, probe; their reports and pictures."""
