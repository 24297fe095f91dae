"""What every room stands on: nothing here knows anything of the project but its errors."""
