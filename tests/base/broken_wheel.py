"""Does not import: what a plugin with a fault looks like."""

raise ValueError("a wheel is round")
