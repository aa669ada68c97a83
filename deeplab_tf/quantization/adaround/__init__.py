"""AdaRound: the rounding of weights, learned from images."""
