# The compiled module has the types of its pure twin.
from netcore._pure.vitals import Vitals as Vitals
