"""The demo: a scripted world, the gateway and a sample consumer on one screen."""
