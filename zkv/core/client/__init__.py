"""The client: operations become batches, batches become tries, and answers become certain results."""
