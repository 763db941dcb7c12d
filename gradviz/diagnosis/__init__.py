"""What is to be said of a run, good or bad, and the numbers that say so."""
