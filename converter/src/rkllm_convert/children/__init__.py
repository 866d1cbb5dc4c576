"""Scripts that run in the Python that has the toolkit. They stand apart, as their folder is the first that
this Python imports from, and none of our modules must be taken for one of another library's."""
