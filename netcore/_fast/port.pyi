# The compiled module has the types of its pure twin.
from netcore._pure.port import Port as Port
