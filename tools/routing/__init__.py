"""How well netcore routes, measured in the simulator."""
