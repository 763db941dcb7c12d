"""Trainings on the computers of a Ray cluster. Nothing here is imported, and Ray neither, unless GRADVIZ_RAY is set."""
