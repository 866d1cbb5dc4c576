"""Makes the weights of `exo.questions`: generated questions, and a logistic regression fitted to them."""
