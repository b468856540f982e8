"""A web program that enqueues workflows in its own transactions; see ``app``."""
