"""The processes of each system, one file for each: ``python -m tools.failover.systems.NAME``."""
