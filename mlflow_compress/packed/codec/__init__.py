"""The entropy coder: tables, streams and what picks among them, in C or numpy."""
