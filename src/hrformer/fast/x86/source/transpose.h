// Transposition of a square of LANES vectors in registers: log2(LANES) rounds of exchanges between pairs of vectors.

#pragma once

#include "vectors.h"

// In round `STEP`, vectors i and i + STEP exchange the lanes whose bit STEP differs from theirs.
template <int STEP> static INLINE void exchange(vec* v) {
  ivec low, high;
  for (int i = 0; i < LANES; i++) {
    low[i] = i & STEP ? LANES + i - STEP : i;
    high[i] = i & STEP ? LANES + i : i + STEP;
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++)
    if (!(i & STEP)) {
      vec a = v[i], b = v[i + STEP];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + STEP] = __builtin_shuffle(a, b, high);
    }
}

static INLINE void transpose(vec* v) {
  exchange<1>(v);
  exchange<2>(v);
  exchange<4>(v);
#if LANES == 16
  exchange<8>(v);
#endif
}
