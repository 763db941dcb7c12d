"""What a training leaves behind, as plain numbers: it knows no net and no torch."""
