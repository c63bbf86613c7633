"""An event loop whose clock jumps to the next timer instead of waiting for it: see harness/simulation.py."""

import simulation

VirtualLoop = simulation.VirtualLoop
