"""The trainable LENS modules and the frozen decoder that they prompt."""
