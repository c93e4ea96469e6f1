"""What the gateway costs and how fast it is, beside a bare Telethon client and the afternoon version."""
