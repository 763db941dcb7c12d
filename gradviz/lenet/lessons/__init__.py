"""The article's ten claims, and what it missed, as lessons: predict first, then run, then compare."""
