"""A page on which one looks at every image of a study: real beside synthetic, on a map, and each beside its nearest patch."""
