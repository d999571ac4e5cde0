"""Many trainings from one file, and the table that compares them."""
