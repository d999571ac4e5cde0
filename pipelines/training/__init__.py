"""Phase 2 as a job: the Lightning module, its data, callbacks and loggers."""
