"""More images of a finished study than it made itself."""
