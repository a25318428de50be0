// Products of the training kernels in bfloat16: weights, which stay float32 in memory, and what they are multiplied
// with are rounded as they are packed; sums are float32. The same functions as ../training_products.h has in float32.

#pragma once

#include "../transpose.h"
#include "half_product.h"

// A number of packed weights.
typedef half Packed;

static INLINE size_t packed_floats(int depth, int outputs) { return (size_t)grouped(depth) * filled(outputs) / 2; }

// Rows of a weight's gradient in memory, where there are sums of `rows` of them.
static INLINE int grad_rows(int rows) { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS; }

#ifndef HALF_EMULATED

// 32 numbers in their order, as many bits as a vector.
static INLINE vec rounded(vec first, vec second) {
  return (vec)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

// Numbers of the two vectors in turn.
static INLINE vec rounded_pairs(vec first, vec second) {
  uint16_t place[GROUP];
  for (int i = 0; i < GROUP; i++) place[i] = i / 2 + i % 2 * LANES;
  return (vec)_mm512_permutexvar_epi16(_mm512_loadu_si512(place), (__m512i)rounded(first, second));
}

#else

static INLINE vec rounded(vec first, vec second) {
  alignas(64) half numbers[GROUP];
  store_halves(numbers, {first, second});
  return load((const float*)numbers);
}

static INLINE vec rounded_pairs(vec first, vec second) {
  alignas(64) half numbers[GROUP], pairs[GROUP];
  store_halves(numbers, {first, second});
  for (int i = 0; i < GROUP; i++) pairs[i] = numbers[i / 2 + i % 2 * LANES];
  return load((const float*)pairs);
}

#endif

static INLINE vec load_first(const float* p, int n) { return n > 0 ? load_part(p, n) : (vec){}; }

// The panel of weights (depth, outputs) from column `start` on; `row(k)` is where row k is. Depth is filled with zeros.
template <class RowOf>
static inline void pack_half_panel(RowOf row, int depth, int outputs, int start, half* out) {
  const int vectors = outputs - start > LANES ? 2 : 1;
  for (int k = 0; k < grouped(depth); k += 2)
    for (int v = 0; v < vectors; v++, out += GROUP) {
      const int column = start + v * LANES;
      const vec first = k < depth ? load_part(row(k) + column, outputs - column) : (vec){};
      const vec second = k + 1 < depth ? load_part(row(k + 1) + column, outputs - column) : (vec){};
      store((float*)out, rounded_pairs(first, second));
    }
}

// The same of weights (outputs, depth).
template <class RowOf>
static inline void pack_half_panel_transposed(RowOf row, int depth, int outputs, int start, half* out) {
  const int vectors = outputs - start > LANES ? 2 : 1;
  for (int v = 0; v < vectors; v++)
    for (int k = 0; k < grouped(depth); k += GROUP) {
      vec block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) {
        const int output = start + v * LANES + i;
        const float* from = output < outputs ? row(output) + k : nullptr;
        block[i] = from ? rounded(load_part(from, depth - k), load_first(from + LANES, depth - k - LANES)) : (vec){};
      }
      transpose(block);
      for (int i = 0; i < LANES; i++) store((float*)(out + ((size_t)(k / 2 + i) * vectors + v) * GROUP), block[i]);
    }
}

// Packed weights of a product over `depth`, given as (outputs, depth) or, not `transposed`, as (depth, outputs).
static inline Packed* pack(Pieces& pieces, const float* w, int depth, int outputs, bool transposed, int threads) {
  Packed* out = (Packed*)pieces.floats(packed_floats(depth, outputs));
  for_parts(packed_floats(depth, outputs) > SMALL ? threads : 1, (outputs + PANEL - 1) / PANEL, [&](int p) {
    Packed* at = out + (size_t)p * PANEL * grouped(depth);
    if (transposed)
      pack_half_panel_transposed([=](int r) { return w + (size_t)r * depth; }, depth, outputs, p * PANEL, at);
    else
      pack_half_panel([=](int k) { return w + (size_t)k * outputs; }, depth, outputs, p * PANEL, at);
  });
  return out;
}

// As in ../window_packing.h.
template <class RowOf> static inline void pack_across(RowOf row, int places, int dim, Packed* out) {
  for (int start = 0; start < places; start += PANEL)
    pack_half_panel_transposed(row, dim, places, start, out + start * grouped(dim));
}

template <class RowOf> static inline void pack_along(RowOf row, int places, int dim, Packed* out) {
  for (int start = 0; start < dim; start += PANEL)
    pack_half_panel(row, places, dim, start, out + start * grouped(places));
}

// As in ../product.h: rows of floats times packed weights; `finish` gets the sums a vector at a time. The thread is Ready.
template <class RowOf, class Finish>
static INLINE void product(RowOf row, int rows, const Packed* w, int depth, int vectors, Finish finish) {
  const int columns = vectors * LANES;
  const size_t deep = grouped(depth), tall = grouped(rows);
  half* left = half_buffer(product_buffer, tall * deep);
  for (int k = 0; k < depth; k += GROUP)
    for (int r = 0; r < rows; r++) {
      const float* from = row(r) + k;
      store_halves(left + k * tall + r * GROUP, {load_part(from, depth - k), load_first(from + LANES, depth - k - LANES)});
    }
  half_product({left, GROUP, tall * GROUP}, rows, w, (int)deep, columns, nullptr,
               [=](int r, int c, Pair(&v)[2], int count) __attribute__((always_inline)) {
                 ROWS_OF_TWO(i, count) {
                   finish(r + i, c, v[i].first);
                   if (c + LANES < columns) finish(r + i, c + LANES, v[i].second);
                 }
               });
}

// out[c][e] += sum over tokens of a[t][c] * b[t][e]: a is (tokens, rows), b (tokens, columns), out (grad_rows(rows),
// filled columns). Reads whole vectors of both.
static inline void add_products(const float* a, int a_stride, int rows, const float* b, int b_stride, int columns,
                                   int tokens, float* out) {
  const size_t deep = grouped(tokens), tall = grouped(rows), stride = filled(columns);
  half *left = half_buffer(product_buffer, deep * (tall + stride)), *right = left + deep * tall;
  for (int t = 0; t < tokens; t += GROUP)
    for (int c = 0; c < rows; c += LANES) {
      vec block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) {
        const int left_over = tokens - t - 2 * i;
        const float* from = a + (size_t)(t + 2 * i) * a_stride + c;
        block[i] = rounded_pairs(left_over > 0 ? load(from) : (vec){}, left_over > 1 ? load(from + a_stride) : (vec){});
      }
      transpose(block);
      for (int i = 0; i < LANES; i++) store((float*)(left + t * tall + (size_t)(c + i) * GROUP), block[i]);
    }
  for (int e = 0; e < columns; e += PANEL)
    pack_half_panel([=](int t) { return b + (size_t)t * b_stride; }, tokens, (int)stride, e, right + e * deep);
  plain_product({left, GROUP, tall * GROUP}, rows, right, (int)deep, (int)stride, {out, stride, out, stride});
}
