"""A payment gateway for local use: a stranger to finalbell, which it knows by nothing but HTTP. No money moves."""
