"""Seeded bugs: each patch breaks one promise, and the tests that it names have to notice."""
