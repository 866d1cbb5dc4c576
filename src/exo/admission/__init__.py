"""Who may ask a node, and how much in a minute: keys, the file they are kept in, and limits."""
