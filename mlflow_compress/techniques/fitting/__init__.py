"""What layers get and give on calibration rows, and weights fitted to it."""
