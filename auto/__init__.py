"""Makes the weights of `exo.choice.questions`: generated questions, a logistic regression fitted to them."""
