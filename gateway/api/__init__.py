"""The REST API: what the gateway stored and what it is doing, over HTTP, for those who hold a token.

`app.create_app` puts it together, `server` runs it; each group of endpoints is a module with its `router`.
"""
