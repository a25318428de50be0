// The sum of a fusion unit in float32.

#include "vectors.h"

typedef float number;
typedef vec Values;
struct Mode {
  Mode() {}
};
static const int WIDTH = LANES;

static INLINE Values load_values(const number* p, int n) { return load_part(p, n); }
static INLINE void store_values(number* p, Values v, int n) { store_part(p, v, n); }
static INLINE Values load_sums(const float* p) { return load(p); }
static INLINE void store_sums(float* p, Values v) { store(p, v); }

#include "fusion.h"
