"""Who trains when, and what a class shares."""
