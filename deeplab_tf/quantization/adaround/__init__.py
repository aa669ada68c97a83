"""AdaRound: rounding of weights, learned from calibration images."""
