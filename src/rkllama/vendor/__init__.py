"""The vendor's runtime in this process: its interface by release, its library, one handle."""
