"""Models of text, which write a sentence word by word up to its end."""
