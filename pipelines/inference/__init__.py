"""A trained head in use on this machine: segment files, export, chat."""
