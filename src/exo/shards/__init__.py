"""A model as shards, each a contiguous range of its layers in a process of its own."""
