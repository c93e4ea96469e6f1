"""The database schema: the numbered files of `sql/` and what runs them."""
