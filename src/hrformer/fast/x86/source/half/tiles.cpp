// Whether the kernels of this build can run in this process.

#include "blocks.h"

#if defined(HALF_TILES) && !defined(HALF_EMULATED)

#include <sys/syscall.h>
#include <unistd.h>

// Linux lends the registers of AMX to a process that asks for them, for all of its threads and for good: they make the
// frames of its signals 8 KiB larger.
extern "C" int hrformer_may_run() {
  const int ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

#else

extern "C" int hrformer_may_run() { return 1; }

#endif
