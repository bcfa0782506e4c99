// Nothing to call: loaded before the C library (LD_PRELOAD), it makes large maps small. See smallmaps.c.
#pragma once
