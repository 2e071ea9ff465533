"""The pages, the API and the live stream of the node."""
