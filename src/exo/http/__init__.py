"""The node's HTTP side: the application, one `*_routes` file per dialect, and the client to other nodes."""
