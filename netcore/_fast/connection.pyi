# The compiled module has the types of its pure twin.
from netcore._pure.connection import Connection as Connection
