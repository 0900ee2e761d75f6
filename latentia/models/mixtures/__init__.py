"""Models whose z is one of K: each datum belongs to one component."""
