"""The torch modules that are trained, and how to look into them."""
