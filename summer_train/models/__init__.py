"""Networks, the Lightning decoder, optimizer steps, stacks of networks."""
