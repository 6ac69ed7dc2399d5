"""How long traffic stops when something on its way fails: netcore beside zenoh and NATS."""
