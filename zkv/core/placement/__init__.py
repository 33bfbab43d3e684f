"""Where the copies of each shard live: pure functions of the nodes, and of where the copies are now."""
