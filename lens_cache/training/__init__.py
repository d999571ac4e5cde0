"""Phase 2: batches from a store, losses, optimizer, run folders."""
