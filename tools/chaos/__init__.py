"""What a node must survive, at full size: floods, deaf readers, broken machines, long runs."""
