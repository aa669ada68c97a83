"""What goes wrong between a trained network and its masks, found, named and cured."""
