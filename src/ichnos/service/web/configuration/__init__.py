"""The pages that change the node: destinations, models, users, tokens."""
