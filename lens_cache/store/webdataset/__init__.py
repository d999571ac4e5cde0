"""The WebDataset format: one tar per shard, streamed."""
