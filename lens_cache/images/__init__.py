"""Images and masks: files, frames, coordinates, panels."""
