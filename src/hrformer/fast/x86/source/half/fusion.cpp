// The sum of a fusion unit in bfloat16, added in float32.

#include "half.h"

typedef half number;
typedef Pair Values;
typedef Flushing Mode;
static const int WIDTH = GROUP;

static INLINE Values load_values(const number* p, int n) { return load_halves(p, n); }
static INLINE void store_values(number* p, Values v, int n) { store_halves(p, v, n); }
static INLINE Values load_sums(const float* p) { return load_floats(p); }
static INLINE void store_sums(float* p, Values v) { store_floats(p, v); }

#include "../fusion.h"
