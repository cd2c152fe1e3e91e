"""Integer biases that give every reachable accumulator its trained code."""
