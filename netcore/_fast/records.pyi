# The compiled module has the types of its pure twin.
from netcore._pure.records import Records as Records
