"""The way of a job from its configuration to its end."""
