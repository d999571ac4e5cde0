"""Phase 1: run the frozen models over a plan and commit what they return."""
