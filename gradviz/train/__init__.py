"""Measuring a net while torch trains it."""
