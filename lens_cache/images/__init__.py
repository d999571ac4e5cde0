"""Pictures and masks: files, frames, coordinates."""
