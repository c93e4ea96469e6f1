"""What the sandbox answers, grouped as Telegram groups its methods.

`api.Api` finds the handler for a request.
"""
