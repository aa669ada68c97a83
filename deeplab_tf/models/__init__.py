"""Network graphs: each builder returns one flat Functional graph of stock Keras layers."""
