"""The simulator: the production cores in seeded virtual time."""
