"""Models whose likelihood is a network of z, learned with an inference network."""
