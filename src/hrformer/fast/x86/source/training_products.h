// Packing of weights, and sums of outer products for the gradients of weights.

#pragma once

#include "team.h"
#include "product.h"
#include "training_work.h"
#include "transpose.h"

// Numbers of a matrix that other threads are not woken for.
static const size_t SMALL = 16384;

#ifdef HALF
#include "half/training_products.h"
#else

// A number of packed weights.
typedef float Packed;

// What a thread needs to multiply, for as long as one lives.
struct Ready {
  Ready() {}
};

// Rows of a weight's gradient in memory, where there are sums of `rows` of them.
static INLINE int grad_rows(int rows) { return rows; }

static INLINE size_t packed_floats(int depth, int outputs) { return (size_t)depth * filled(outputs); }

// One panel of weights (depth, outputs), from column `start`.
static inline void pack_panel(const float* w, int depth, int outputs, int start, int vectors, float* out) {
  for (int k = 0; k < depth; k++)
    for (int v = 0; v < vectors; v++, out += LANES) {
      const int column = start + v * LANES;
      store(out, load_part(w + (size_t)k * outputs + column, outputs - column));
    }
}

// One panel of weights (outputs, depth).
static inline void pack_panel_transposed(const float* w, int depth, int outputs, int start, int vectors, float* out) {
  for (int v = 0; v < vectors; v++)
    for (int k = 0; k < depth; k += LANES) {
      vec block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) {
        const int row = start + v * LANES + i;
        block[i] = row < outputs ? load_part(w + (size_t)row * depth + k, depth - k) : (vec){};
      }
      transpose(block);
      for (int i = 0; i < LANES && k + i < depth; i++) store(out + ((size_t)(k + i) * vectors + v) * LANES, block[i]);
    }
}

// Packed weights of a product over `depth`, given as (outputs, depth) or, not `transposed`, as (depth, outputs).
static inline Packed* pack(Pieces& pieces, const float* w, int depth, int outputs, bool transposed, int threads) {
  Packed* out = pieces.floats(packed_floats(depth, outputs));
  const int vectors = vectors_of(outputs), panels = (vectors + 2) / 3;
  for_parts(packed_floats(depth, outputs) > SMALL ? threads : 1, panels, [&](int p) {
    // All panels but the last hold three vectors; four are left together, a rule of panel_vectors.
    const int left = vectors - 3 * p, taken = panel_vectors(left);
    if (left == 1 && p > 0 && panel_vectors(left + 3) == 4) return;
    float* at = out + (size_t)3 * p * LANES * depth;
    if (transposed)
      pack_panel_transposed(w, depth, outputs, 3 * p * LANES, taken, at);
    else
      pack_panel(w, depth, outputs, 3 * p * LANES, taken, at);
  });
  return out;
}

// out[c][e] += sum over tokens of a[t][c] * b[t][e], for V vectors of e. Reads up to LANES floats behind a's last row.
template <int V>
static __attribute__((noinline, unused)) void add_products_panel(const float* a, int a_stride, int rows, const float* b,
                                                      int b_stride, int tokens, float* out, int out_stride) {
  constexpr int R = TileRows<V>::value;
  for (int c = 0; c < rows; c += R) {
    const int count = rows - c < R ? rows - c : R;
    vec sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sums[r][v] = (vec){};
    const float *left = a + c, *right = b;
    for (int t = 0; t < tokens; t++, left += a_stride, right += b_stride) {
      vec factors[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) factors[v] = load(right + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const vec x = splat(left[r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[r][v] += x * factors[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
      if (r < count) {
        float* to = out + (size_t)(c + r) * out_stride;
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(to + v * LANES, load(to + v * LANES) + sums[r][v]);
      }
  }
}

// All columns: a is (tokens, rows), b (tokens, columns), out (rows, filled columns).
static inline void add_products(const float* a, int a_stride, int rows, const float* b, int b_stride, int columns,
                             int tokens, float* out) {
  const int stride = filled(columns);
  for (int e = 0, left = vectors_of(columns); left > 0;) {
    const int taken = panel_vectors(left);
    if (taken == 4)
      add_products_panel<4>(a, a_stride, rows, b + e, b_stride, tokens, out + e, stride);
    else if (taken == 3)
      add_products_panel<3>(a, a_stride, rows, b + e, b_stride, tokens, out + e, stride);
    else if (taken == 2)
      add_products_panel<2>(a, a_stride, rows, b + e, b_stride, tokens, out + e, stride);
    else
      add_products_panel<1>(a, a_stride, rows, b + e, b_stride, tokens, out + e, stride);
    e += taken * LANES;
    left -= taken;
  }
}

#endif

// Sum of the parts' (grad_rows(rows), filled columns), as (rows, columns).
static inline void sum_parts(const float* sums, int parts, int rows, int columns, float* out, int threads) {
  const size_t stride = filled(columns), size = grad_rows(rows) * stride;
  for_runs(rows * stride > SMALL ? threads : 1, rows, [&](int first, int last) {
    for (int r = first; r < last; r++)
      for (int e = 0; e < columns; e += LANES) {
        vec total = load(sums + r * stride + e);
        for (int p = 1; p < parts; p++) total += load(sums + p * size + r * stride + e);
        store_part(out + (size_t)r * columns + e, total, columns - e);
      }
  });
}

// The same as (columns, rows).
static inline void sum_parts_transposed(const float* sums, int parts, int rows, int columns, float* out, int threads) {
  const size_t stride = filled(columns), size = grad_rows(rows) * stride;
  for_parts(rows * stride > SMALL ? threads : 1, vectors_of(columns), [&](int vector) {
    const int e = vector * LANES;
    for (int r = 0; r < rows; r += LANES) {
      vec block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) {
        vec total = {};
        for (int p = 0; p < parts && r + i < rows; p++) total += load(sums + p * size + (r + i) * stride + e);
        block[i] = total;
      }
      transpose(block);
      for (int i = 0; i < LANES && e + i < columns; i++)
        store_part(out + (size_t)(e + i) * rows + r, block[i], rows - r);
    }
  });
}
