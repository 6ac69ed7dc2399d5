"""Services that ship with netcore: ordinary behaviors, built on public names only."""
