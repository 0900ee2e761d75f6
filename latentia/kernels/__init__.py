"""Fused recursions for the measured hot spots. The plain recursion in `distributions/` is the specification."""
