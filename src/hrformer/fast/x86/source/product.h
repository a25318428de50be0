// Matrix products of float32 rows with packed weights: out[m][n] = sum over k of a[m][k] * w[k][n].
//
// Weights are packed in panels of up to PANEL vectors of outputs: of a panel of v vectors, depth by depth, v * LANES
// floats. A tile of rows times one panel is summed in registers; what happens to the sums is the caller's, given as
// a function of row, column and vector.

#pragma once

#include "vectors.h"

// Rows of a tile: as many as leave registers for the panel's vectors and one factor.
template <int V> struct TileRows {
  static constexpr int value = LANES == 16 ? (V == 1 ? 14 : V == 2 ? 12 : V == 3 ? 8 : 7) : (V == 1 ? 8 : V == 2 ? 6 : 3);
};

// Vectors of the next panel where `left` vectors of outputs are left. At most 4; 4 only as the last, since a tile of
// three vectors and eight rows loads least per sum. Same rule in ../stages.py.
static INLINE int panel_vectors(int left) { return left == 4 ? 4 : left >= 3 ? 3 : left; }

// Weights that will be read soon are asked for ahead of time, one cache line (16 floats) every AHEAD steps of the
// depth: a panel of the wide branches comes from the last cache, and waiting for it would cost a tenth of the product.
static const int AHEAD = 4;

// One tile. `row(r, t)` is where row r < rows of the left matrix has its tap t, `depth` numbers; a plain product has
// one tap. Rows beyond the last repeat it, and only sums of `count` rows are handed on. `soon`: what to ask for.
template <int V, class RowOf, class Finish>
static INLINE void tile(RowOf row, int first, int count, int taps, const float* w, const float* soon,
                        int depth, int column, Finish finish) {
  constexpr int R = TileRows<V>::value;
  vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sums[r][v] = (vec){};
  for (int t = 0; t < taps; t++) {
    const float* a[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) a[r] = row(first + (r < count ? r : count - 1), t);
    for (int k = 0; k < depth; k++) {
      vec factors[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) factors[v] = load(w + v * LANES);
      w += V * LANES;
      if (k % AHEAD == 0) __builtin_prefetch(soon + k / AHEAD * 16, 0, 2);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        vec x = splat(a[r][k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[r][v] += x * factors[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
    if (r < count) {
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) finish(first + r, column + v * LANES, sums[r][v]);
    }
}

template <int V, class RowOf, class Finish>
static __attribute__((noinline)) void panel(RowOf row, int rows, int taps, const float* w, const float* soon,
                                            int depth, int column, Finish finish) {
  constexpr int R = TileRows<V>::value;
  for (int r = 0; r < rows; r += R) {
    tile<V>(row, r, rows - r < R ? rows - r : R, taps, w, soon, depth, column, finish);
    soon += depth / AHEAD * 16;
  }
}

// All rows of all taps times all panels; `vectors` counts the outputs.
template <class RowOf, class Finish>
static INLINE void product_of_taps(RowOf row, int rows, int taps, const float* w, int depth, int vectors,
                                   Finish finish) {
  for (int column = 0; vectors > 0;) {
    const int taken = panel_vectors(vectors);
    const float* next = w + (size_t)taken * LANES * depth * taps;
    if (taken == 4)
      panel<4>(row, rows, taps, w, next, depth, column, finish);
    else if (taken == 3)
      panel<3>(row, rows, taps, w, next, depth, column, finish);
    else if (taken == 2)
      panel<2>(row, rows, taps, w, next, depth, column, finish);
    else
      panel<1>(row, rows, taps, w, next, depth, column, finish);
    w = next;
    column += taken * LANES;
    vectors -= taken;
  }
}

// The same with one tap: `row(r)` is where row r starts.
template <class RowOf, class Finish>
static INLINE void product(RowOf row, int rows, const float* w, int depth, int vectors, Finish finish) {
  product_of_taps([=](int r, int) { return row(r); }, rows, 1, w, depth, vectors, finish);
}

// The share of a product's outputs, in vectors, that thread `number` of `count` takes: whole panels.
struct Vectors {
  int begin, end;
};

static INLINE Vectors share_of(int vectors, int number, int count) {
  const int panels = vectors <= 4 ? 1 : vectors % 3 == 1 ? (vectors - 1) / 3 : (vectors + 2) / 3;
  const int begin = panels * number / count, end = panels * (number + 1) / count;
  return {3 * begin, end == panels ? vectors : 3 * end};
}

// `product` for some vectors of the outputs; `finish` gets columns of all.
template <class RowOf, class Finish>
static INLINE void product_of_share(RowOf row, int rows, const float* w, int depth, Vectors share, Finish finish) {
  const int first = share.begin * LANES;
  if (share.end > share.begin)
    product(row, rows, w + (size_t)first * depth, depth, share.end - share.begin,
            [=](int r, int c, vec v) { finish(r, first + c, v); });
}

// Layer norm of one token without gain and shift, two passes: mean, then squared deviations from it.
static INLINE void normalise(const float* x, float* y, int channels, float eps) {
  vec sum = {};
  int whole = channels - channels % LANES, rest = channels - whole;
  for (int c = 0; c < whole; c += LANES) sum += load(x + c);
  if (rest) sum += load_part(x + whole, rest);
  vec mean = splat(sum_of(sum) / channels), squares = {};
  for (int c = 0; c < whole; c += LANES) {
    vec deviation = load(x + c) - mean;
    squares += deviation * deviation;
  }
  if (rest) {
    vec deviation = first_lanes(load_part(x + whole, rest) - mean, rest);
    squares += deviation * deviation;
  }
  vec scale = splat(1 / __builtin_sqrtf(sum_of(squares) / channels + eps));
  for (int c = 0; c < whole; c += LANES) store(y + c, (load(x + c) - mean) * scale);
  if (rest) store_part(y + whole, (load_part(x + whole, rest) - mean) * scale, rest);
}
