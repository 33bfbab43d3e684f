"""The commands: zkv-manager, zkv-node, zkv-launch, zkv-client, zkv-admin."""
