"""Side-by-side measurements of pvback and its peers; see README.md for the method."""
