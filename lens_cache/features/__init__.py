"""The contract between extraction and training: features and frozen parts, shared by both."""
