"""Models of images whose latents are segments: a label for each pixel."""
