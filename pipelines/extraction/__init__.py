"""Phase 1 as a job: in this process or on Ray, with resume, verification and repair."""
