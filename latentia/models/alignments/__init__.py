"""Models whose z is where in a source each piece of x comes from."""
