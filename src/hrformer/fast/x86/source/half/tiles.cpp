// Whether the kernels of this build can run in this process, and whether they are quicker there than those in float32.

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

#if defined(HALF_TILES) || defined(HALF_EMULATED)

extern "C" int hrformer_pays() { return 1; }

#else

#include <x86intrin.h>

// Cycles that eight sums side by side take, the fewest of some times.
template <class Sum> static unsigned long cycles(Sum sum) {
  unsigned long least = ~0ul;
  for (int time = 0; time < 8; time++) {
    vec sums[8] = {};
    const unsigned long start = __rdtsc();
    for (int i = 0; i < 512; i++)
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        sums[j] = sum(sums[j]);
        __asm__ volatile("" : "+v"(sums[j]));
      }
    const unsigned long taken = __rdtsc() - start;
    if (taken < least) least = taken;
  }
  return least;
}

// A dot product does the work of two sums in float32. On an Intel processor with AMX it took four times as long as one
// of those: there float32 is quicker where the system keeps AMX to itself.
extern "C" int hrformer_pays() {
  const half ones[2 * LANES] = {};
  const vec one = splat(1);
  const unsigned long two = cycles([&](vec sum) { return sum_of_products(sum, ones, ones); });
  const unsigned long single = cycles([&](vec sum) { return sum + one * one; });
  return two < 2 * single;
}

#endif
