"""The Resources of the HTTP API, and what they are made of."""
