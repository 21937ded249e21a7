"""Peers of the bench: SaveAnswer's work in other frameworks and languages, so that a comparison compares like with like."""
