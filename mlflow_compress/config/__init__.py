"""The schemas of configuration files."""
