"""What is wrong with this machine as a node, and what would mend it: `gather` looks, `examine` judges."""
