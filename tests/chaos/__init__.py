"""A seeded schedule of faults under load, recorded call by call, and audited afterwards."""
