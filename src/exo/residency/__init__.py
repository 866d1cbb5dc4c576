"""The models in this node's memory, and the queue before them."""
