"""Where and how the library runs: the command line, the Ray job, the trainer."""
