"""Dataset adapters: from the files people already have to images, instructions and masks."""
