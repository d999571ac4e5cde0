"""The trainable LENS modules and the frozen SAM decoder that they prompt."""
