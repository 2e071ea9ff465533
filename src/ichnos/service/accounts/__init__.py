"""Who may come in: users, tokens, an identity provider, and a limit on guesses."""
