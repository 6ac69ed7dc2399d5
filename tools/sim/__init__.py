"""Campaigns over ``netcore.sim``: random networks, traffic and faults, and what must hold."""
