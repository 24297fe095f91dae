"""Architecture search as jobs: a supernet and its subnets, and one path."""
