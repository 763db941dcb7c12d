"""What is kept of runs on the disk."""
