"""The three places that every record reaches, and the runner they share."""
