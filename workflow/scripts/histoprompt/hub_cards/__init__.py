"""Model and data-set cards in the hub's format."""
