"""The storage node: primary, backup, learner; from a request to its commit, and from an epoch change to service."""
