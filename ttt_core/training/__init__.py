"""Training of the streaming network: data, loss, optimiser, the loop that drives them."""
