"""The composition root: the only package that names concrete parts, and puts them together."""
