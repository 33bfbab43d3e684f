"""Measuring a cluster under load: what `zkv-bench` is made of, for experiments, too."""
