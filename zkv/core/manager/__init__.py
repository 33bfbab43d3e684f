"""The manager: who is a member, who is gone, how the shard map changes, and what operators ask and see."""
