"""Models whose z is a sequence of states."""
