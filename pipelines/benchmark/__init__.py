"""How fast the parts of the work are, against the way they are usually done."""
