"""Measurements that anybody can repeat: one script for each kind of figure, on a stack of its own."""
