"""What a run suffers from, and the numbers that say so."""
