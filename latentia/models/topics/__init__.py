"""Models of documents as bags of words, in which each has its own share of every topic."""
