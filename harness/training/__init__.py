"""One epoch as a function: state[e + 1] = train_epoch(state[e], lr[e], seed, e)."""
